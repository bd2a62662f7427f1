import pickle
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from builders import image_folder
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from torch import nn

from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import ConfigError, DataError, ModelFolderError
from cassle_zoo.eval.base import Compute, EvalContext, whitened
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.retrieval import Retrieval
from cassle_zoo.eval.runner import evaluate
from cassle_zoo.eval.sources import open_source
from cassle_zoo.features import whitening
from cassle_zoo.features.extract import Extractor, extract_features
from cassle_zoo.features.files import load_features
from cassle_zoo.features.gallery import run_demo
from cassle_zoo.features.whitening import Whitening, model_whitening
from cassle_zoo.hub.publish.verify import verify_folder
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.specs import MODEL_SPECS, resolve_spec
from cassle_zoo.store.folder import MODEL_FILE, WHITENING_FILE, bundled_folder
from cassle_zoo.zoo.create import create_model


@pytest.fixture
def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(60, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    return 3 * mixed + torch.arange(8)


@pytest.mark.parametrize("components", [1, 5, 8])
def test_agrees_with_sklearn(
    features: torch.Tensor, components: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whitening, "_CHUNK", 7)
    reference = PCA(components, whiten=True, svd_solver="full").fit(features[:40].double().numpy())
    expected = torch.from_numpy(reference.transform(features.double().numpy())).float()
    found = Whitening.fit(features[:40], components)(features)
    signs = (found * expected).sum(0).sign()  # a direction's sign is free
    torch.testing.assert_close(found * signs, expected, rtol=1e-5, atol=1e-5)


def test_what_it_was_fitted_to_becomes_uncorrelated(features: torch.Tensor) -> None:
    found = Whitening.fit(features, 8)(features)
    torch.testing.assert_close(found.T.cov(), torch.eye(8), atol=1e-5, rtol=0)


def test_bad_input_is_named(features: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="9 components: expected 1 to 8"):
        Whitening.fit(features, 9)
    with pytest.raises(ConfigError, match="0 components"):
        Whitening.fit(features, 0)
    with pytest.raises(DataError, match=r"needs 16 .*got 15.*at most 7 components"):
        Whitening.fit(features[:15], 8)
    with pytest.raises(DataError, match=r"4 directions.*5 components"):
        Whitening.fit(features[:, [0, 1, 2, 3, 3, 3]], 5)
    with pytest.raises(DataError, match="vary in 0 directions"):
        Whitening.fit(torch.ones(60, 8) / 3, 1)
    with pytest.raises(DataError, match="NaN"):
        Whitening.fit(features.log(), 2)
    with pytest.raises(DataError, match=r"expected \(N, 8\)"):
        Whitening.fit(features, 2)(features[:, 1:])


def test_features_are_checked_in_chunks(
    features: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    isfinite = torch.isfinite

    def counting(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return isfinite(part)

    monkeypatch.setattr(torch, "isfinite", counting)
    monkeypatch.setattr(whitening, "_CHUNK", 16)
    whitening.check_features(features)
    assert sizes == [16, 16, 16, 12]


def test_a_file_holds_it_exactly(features: torch.Tensor, tmp_path: Path) -> None:
    fitted = Whitening.fit(features, 5)
    fitted.save(tmp_path / "new" / "w.safetensors")
    loaded = Whitening.load(tmp_path / "new" / "w.safetensors")
    assert torch.equal(loaded(features), fitted(features))
    assert (loaded.images, loaded.components, loaded.sha256()) == (60, 5, fitted.sha256())
    with pytest.raises(ConfigError, match=r"w\.npz: a whitening is saved as \.safetensors"):
        fitted.save(tmp_path / "w.npz")


def test_files_that_hold_none(features: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(DataError, match=r"there is no whitening .*cassle-zoo whiten"):
        Whitening.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a whitening, or damaged"):
        Whitening.load(path)
    metadata = {"format_version": "1", "images": "9"}
    for tensors, metadata_of in (
        ({"mean": torch.zeros(3)}, metadata),
        ({"mean": torch.zeros(3).double(), "projection": torch.zeros(4, 2).double()}, metadata),
        ({"mean": torch.zeros(3).half(), "projection": torch.zeros(3, 2).half()}, metadata),
        ({"mean": torch.zeros(3).double(), "projection": torch.ones(3, 2).double() / 0}, metadata),
        ({"mean": torch.zeros(3).double(), "projection": torch.zeros(3, 2).double()}, None),
    ):
        save_file(tensors, path, metadata_of)
        with pytest.raises(DataError, match="not a whitening, or damaged"):
            Whitening.load(path)


def test_a_file_that_may_not_be_read(
    features: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # chmod does not keep root out
        raise FileNotFoundError("No such file or directory: w.safetensors")  # as safetensors says

    Whitening.fit(features, 2).save(tmp_path / "w.safetensors")
    monkeypatch.setattr("cassle_zoo.features.whitening.safe_open", refuse)
    with pytest.raises(DataError, match="not a whitening, or damaged: No such file"):
        Whitening.load(tmp_path / "w.safetensors")


MODEL = "resnet18_cassle_simclr"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images", [f"{i}.png" for i in range(12)], (40, 34))


def test_the_command_line_fits_and_applies(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, white, file = (str(tmp_path / n) for n in ("f.npz", "w.npz", "w.safetensors"))
    assert main(["features", MODEL, str(images), "-o", raw]) == 0
    assert main(["whiten", raw, "--components", "4", "-o", file]) == 0
    assert "512 to 4 dimensions, fitted to 12 images" in capsys.readouterr().out
    assert main(["features", MODEL, str(images), "-o", white, "--whiten", file]) == 0
    expected = Whitening.fit(load_features(raw).features, 4)(load_features(raw).features)
    torch.testing.assert_close(load_features(white).features, expected)
    found = extract_features(MODEL, str(images), whiten=file).features
    torch.testing.assert_close(found, expected)
    folder = tmp_path / "parts"
    assert main(["features", MODEL, str(images), "-o", f"{folder}/", "--whiten", file]) == 0
    torch.testing.assert_close(load_features(folder).features, expected)
    # The same command without whitening does not continue what another began.
    assert main(["features", MODEL, str(images), "-o", f"{folder}/"]) == 2
    assert main(["whiten", raw, "-o", file]) == 2
    assert "at most 6 components" in capsys.readouterr().err
    assert main(["features", "test_vit", str(images), "-o", white, "--whiten", "model"]) == 2


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """Return the folder of a model without whitening."""
    folder = tmp_path / "model"
    shutil.copytree(bundled_folder(resolve_spec(MODEL)), folder)
    weights = load_file(folder / MODEL_FILE)
    weights["conv1.weight"] *= 1.5  # else the folder must be as it was published
    save_file(weights, folder / MODEL_FILE, {"format": "pt"})
    (folder / WHITENING_FILE).unlink()
    return folder


def test_bundled_models_come_with_a_whitening_of_their_training_images() -> None:
    for spec in MODEL_SPECS.values():
        if spec.released:
            found = model_whitening(spec.full_name)
            assert found is not None
            assert (found.images, found.components) == (8718, 128)


def test_wrong_use(features: torch.Tensor, images: Path, own_folder: Path) -> None:
    fitted = Whitening.fit(features, 4)
    with pytest.raises(DataError, match=r"\(12, 512\): expected \(N, 8\)"):
        extract_features(MODEL, str(images), whiten=fitted)
    with pytest.raises(ConfigError, match="'pooled', which is not asked for"):
        Extractor(MODEL, outputs=["tokens"], whiten=fitted)
    with pytest.raises(ModelFolderError, match=r"comes without whitening\.safetensors"):
        Extractor(f"local-dir:{own_folder}", whiten="model")
    assert not Whitening.fit(features.clone().requires_grad_(), 4)(features).requires_grad
    pickled: Any = pickle.loads(pickle.dumps(fitted))
    assert pickled.sha256() == fitted.sha256()


def test_the_whitening_of_a_model_folder(
    images: Path, own_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, name = own_folder, f"local-dir:{own_folder}"
    assert model_whitening(name) is None
    raw = extract_features(name, str(images)).features
    fitted = Whitening.fit(raw, 4)
    Whitening.fit(raw, 4, origin="'pooled' of weights 0").save(folder / WHITENING_FILE)
    write_reference(folder)
    failed = [check for check in verify_folder(folder) if not check.passed]
    assert [check.name for check in failed] == ["whitening"]
    assert "fitted to features 'pooled' of weights 0" in failed[0].detail
    with pytest.raises(ConfigError, match=r"in the model's folder was .*of weights 0, but is"):
        Extractor(name, whiten="model")
    with pytest.raises(ConfigError, match=f"in the folder of {name} was .*of weights 0, but is"):
        run_demo(name, tmp_path / "demo", [images])
    (folder / WHITENING_FILE).unlink()
    write_reference(folder)
    fitted.save(folder / WHITENING_FILE)
    unrecorded = {check.name: check.detail for check in verify_folder(folder) if not check.passed}
    assert list(unrecorded) == ["hashes"]
    assert "has no hash of whitening.safetensors; write it again" in unrecorded["hashes"]
    write_reference(folder)
    checks = {check.name: check for check in verify_folder(folder)}
    assert all(check.passed for check in checks.values()), checks
    assert checks["whitening"].detail == "4 components of 512, fitted to 12 images"
    found = model_whitening(name)
    assert found is not None and found.sha256() == fitted.sha256()
    torch.testing.assert_close(
        extract_features(name, str(images), whiten="model").features, fitted(raw)
    )
    assert main(["demo", str(images), "--model", name, "-o", str(tmp_path / "demo")]) == 0
    written = load_features(tmp_path / "demo" / "features.safetensors")
    torch.testing.assert_close(written.features, raw)  # the page compares the whitened ones
    page = (tmp_path / "demo" / "neighbours.html").read_text()
    assert "whitened to 4 principal components, as its folder says" in page
    Whitening.fit(raw[:, :64], 4).save(folder / WHITENING_FILE)
    checks = {check.name: check for check in verify_folder(folder)}
    assert not checks["hashes"].passed
    assert "width 64" in checks["whitening"].detail


def test_evaluations_take_a_file(images: Path, own_folder: Path, tmp_path: Path) -> None:
    for label in "ab":
        (images / label).mkdir()
    for number in range(12):
        (images / f"{number}.png").rename(images / "ab"[number % 2] / f"{number}.png")
    file = tmp_path / "w.safetensors"
    raw = extract_features(MODEL, str(images)).features
    Whitening.fit(raw, 4).save(file)
    data = open_data("folder", images)
    compute = Compute(no_cache=True, device="cpu")
    for evaluator, part in ((KNN, "k-NN"), (Retrieval, "retrieval")):
        white, plain = (
            evaluate("task", evaluator(whiten=whiten), MODEL, data, compute)[0]
            for whiten in (file, None)
        )
        assert "whitened to 4 principal components of 12 other images" in white.protocol[part]
        assert "whitened" not in plain.protocol[part]
        assert not white.is_comparable(plain)
    with pytest.raises(ModelFolderError, match="comes without"):
        evaluate("knn", KNN(whiten=Path("model")), f"local-dir:{own_folder}", data, compute)


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".parquet", "/"])
def test_a_file_is_of_one_model(
    ending: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, file = f"{tmp_path / 'f'}{ending}", tmp_path / "w.safetensors"
    assert main(["features", MODEL, str(images), "-o", raw]) == 0
    assert main(["whiten", raw, "--components", "4", "-o", str(file)]) == 0
    argv = [str(images), "-o", f"{tmp_path / 'white.npz'}", "--whiten", str(file)]
    assert main(["features", MODEL, *argv]) == 0
    assert "unchecked" not in capsys.readouterr().err
    assert main(["features", "resnet18_simclr", *argv]) == 2  # of the same width
    assert "w.safetensors was fitted to features 'pooled' of weights" in capsys.readouterr().err
    with_head: Any = create_model(MODEL, pretrained=True, num_classes=3)
    with_head.bn1.num_batches_tracked.zero_()  # checkpoints of others have no such counters
    assert extract_features(with_head, str(images), whiten=file).features.shape == (12, 4)
    for name, refused in ((MODEL, False), ("resnet18_simclr", True), (f"features:{raw}", False)):
        source = SimpleNamespace(source=open_source(name), model=open_source(name).model)
        source.features = load_features(raw).features
        with pytest.raises(ConfigError, match="fitted to") if refused else nullcontext():
            assert whitened(cast(EvalContext, source), file)[0].shape == (12, 4)


def test_a_file_that_does_not_say_of_which_model(
    features: torch.Tensor, images: Path, tmp_path: Path
) -> None:
    raw = extract_features(MODEL, str(images))
    Whitening.fit(raw.features, 4).save(tmp_path / "old.safetensors")
    with pytest.warns(UserWarning, match=r"old\.safetensors is applied unchecked, since it does"):
        extract_features(MODEL, str(images), whiten=tmp_path / "old.safetensors")
    raw_whitening = Whitening.fit(raw.features, 4, origin=raw.origin)
    raw_whitening.save(tmp_path / "new.safetensors")
    around = nn.Sequential(create_model(MODEL, pretrained=True), nn.Flatten())
    with pytest.warns(UserWarning, match=r"unchecked, since the features do not say"):
        found = extract_features(around, str(images), whiten=tmp_path / "new.safetensors")
    torch.testing.assert_close(found.features, raw_whitening(raw.features))
    of_stage = extract_features(MODEL, str(images), outputs=["stage:-1"])
    fitted = Whitening.fit(of_stage.features, 4, origin=of_stage.origin)
    with pytest.raises(ConfigError, match=r"whitening given .* 'stage:-1' of .* to 'pooled' of"):
        Extractor(MODEL, whiten=fitted)


def test_cast_weights_are_of_no_known_model(images: Path) -> None:
    raw = extract_features(MODEL, str(images))
    fitted = Whitening.fit(raw.features, 4, origin=raw.origin)
    cast_model = create_model(MODEL, pretrained=True).bfloat16()
    with pytest.warns(UserWarning, match="applied unchecked, since the features do not say"):
        extractor = Extractor(cast_model, whiten=fitted)
    assert extractor.origin == ""
    assert raw.origin == Extractor(MODEL, precision="bf16", dtype="float16").origin != ""
