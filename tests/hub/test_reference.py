import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load, load_file, save_file

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.reference import (
    TOLERANCE,
    main,
    recorded_hashes,
    write_reference,
)
from cassle_zoo.hub.reference import reference_errors as errors_of_loaded
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.folder import (
    CONFIG_FILE,
    MODEL_FILE,
    PROJECTOR_FILE,
    REFERENCE_FILE,
    bundled_folder,
)
from cassle_zoo.store.model_files import resolve
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.zoo.create import load_backbone, load_projector

RELEASED = [name for name, spec in MODEL_SPECS.items() if spec.released]


def reference_errors(folder: Path) -> dict[str, float]:
    files = resolve(f"local-dir:{folder}")
    projector = load_projector(files) if files.has_projector else None
    return errors_of_loaded(files, load_backbone(files), projector)


@pytest.mark.parametrize("name", RELEASED)
def test_bundled_models_give_the_stored_features(name: str) -> None:
    folder = bundled_folder(MODEL_SPECS[name])
    errors = reference_errors(folder)
    assert errors.keys() == {"features", "projections"}
    assert max(errors.values()) < TOLERANCE / 10
    for file, expected in recorded_hashes(folder).items():
        assert sha256(folder / file) == expected


def test_timm_alone_can_recompute_it(folder: Path) -> None:
    stored = load_file(folder / REFERENCE_FILE)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    cfg = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found = model((stored["images"] / 255 - mean) / std)
    torch.testing.assert_close(found, stored["features"], rtol=1e-4, atol=1e-5)


def test_the_same_folder_gives_the_same_file(folder: Path) -> None:
    before = {path.name: sha256(path) for path in folder.iterdir()}
    write_reference(folder)
    assert {path.name: sha256(path) for path in folder.iterdir()} == before
    assert recorded_hashes(folder) == {
        name: before[name] for name in (MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE)
    }


def test_the_images_tell_models_apart(folder: Path) -> None:
    features = load_file(folder / REFERENCE_FILE)["features"]
    assert (features[0] - features[1]).abs().max() > 10 * TOLERANCE * features.abs().max()


@pytest.mark.parametrize("file", [MODEL_FILE, PROJECTOR_FILE])
def test_one_changed_weight_is_noticed(folder: Path, file: str) -> None:
    state = load((folder / file).read_bytes())
    key = next(k for k, v in sorted(state.items()) if v.ndim > 1 and not k.startswith("fc."))
    state[key][0] += 0.05
    save_file(state, folder / file)
    assert max(reference_errors(folder).values()) > TOLERANCE


@pytest.mark.parametrize("key", ["mean", "std"])
def test_another_normalisation_is_noticed(folder: Path, key: str) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["pretrained_cfg"][key][1] += 0.01
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    assert reference_errors(folder)["features"] > TOLERANCE


def test_a_reference_that_does_not_fit_is_an_error(folder: Path) -> None:
    path = folder / REFERENCE_FILE
    stored = load(path.read_bytes())
    for changes, message in (
        ({"images": stored["images"][..., :16]}, r"no images of the model's input size"),
        ({"images": stored["images"].float()}, r"no images of the model's input size"),
        ({"features": stored["features"][:, :3].clone()}, r"no features of shape"),
        ({"descriptors": stored["descriptors"][:, :3].clone()}, r"does not fit the model"),
    ):
        save_file({k: v.contiguous() for k, v in {**stored, **changes}.items()}, path)
        with pytest.raises(ModelFolderError, match=message):
            reference_errors(folder)
        with pytest.raises(ModelFolderError, match="has no hashes"):
            recorded_hashes(folder)
    path.write_bytes(b"no tensors")
    for read in (reference_errors, recorded_hashes):
        with pytest.raises(ModelFolderError, match="damaged"):
            read(folder)
    path.unlink()
    for read in (reference_errors, recorded_hashes):
        with pytest.raises(ModelFolderError, match=r"missing; write it with `python -m"):
            read(folder)


def test_a_model_that_diverged_gets_no_reference(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    state = load_file(folder / MODEL_FILE)
    state["layer1.0.bn1.running_var"].fill_(-1)
    with pytest.raises(ModelFolderError, match="features are NaN or infinite"):
        save_model_folder(
            tmp_path / "out", config={**config, "cassle_zoo": {**config["cassle_zoo"],
            "projector": None, "descriptors": []}}, backbone_state=state, projector=None,
            finish=write_reference,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / REFERENCE_FILE).unlink()
    assert main([str(folder)]) == 0
    assert f"{sha256(folder / REFERENCE_FILE)}  {folder}" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 2
    assert "is not a model folder" in capsys.readouterr().err
