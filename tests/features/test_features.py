from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import image_folder, make_image
from PIL import Image
from small_models import make_model, reference
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from cassle_zoo.common.errors import ConfigError, UnknownNameError
from cassle_zoo.features import extract as features
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.inference import embed
from cassle_zoo.features.transform import eval_transform
from cassle_zoo.zoo import create as factory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hold five images, a broken one and a text."""
    names = ("0.png", "1.png", "2.png", "sub/3.png", "sub/4.png")
    root = image_folder(tmp_path / "images", names, (40, 34))
    (root / "2b.png").write_bytes((root / "2.png").read_bytes()[:900])
    (root / "notes.txt").write_text("nothing to see")
    return root


def test_reading_in_threads_changes_nothing(
    model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(extract_features(model, folder, batch_size=4))
    alone, together = results
    assert torch.equal(alone.features, together.features)
    assert (alone.sources, alone.skipped) == (together.sources, together.skipped)
    assert len(alone.skipped) == 1


def test_folder_keeps_order_and_names_what_it_left_out(model: nn.Module, folder: Path) -> None:
    result = extract_features(model, folder)
    names = ["0.png", "1.png", "2.png", "sub/3.png", "sub/4.png"]
    assert result.sources == [str(folder / name) for name in names]
    assert [skip.source for skip in result.skipped] == [str(folder / "2b.png")]
    assert "truncated" in result.skipped[0].reason
    assert result.features.dtype == torch.float32
    expected = reference(model, [make_image(index) for index in range(5)])
    torch.testing.assert_close(result.features, expected, atol=1e-5, rtol=1e-5)
    assert len(result) == 5


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (2, 0), (4, 2), (100, 1)])
def test_batches_and_workers_change_nothing(
    model: nn.Module, folder: Path, batch_size: int, num_workers: int
) -> None:
    expected = extract_features(model, folder)
    result = extract_features(model, folder, batch_size=batch_size, num_workers=num_workers)
    assert result.sources == expected.sources
    assert result.skipped == expected.skipped
    torch.testing.assert_close(result.features, expected.features, atol=1e-5, rtol=1e-5)


def test_classifier_is_left_out(model: nn.Module) -> None:
    classifier = make_model(num_classes=10)
    classifier.load_state_dict(model.state_dict(), strict=False)
    expected = extract_features(model, make_image(0)).features
    assert torch.equal(extract_features(classifier, make_image(0)).features, expected)


def test_model_is_left_as_it_was() -> None:
    model: Any = make_model().train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    result = extract_features(model, [make_image(0), make_image(1)], device="cpu")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not result.features.requires_grad
    with pytest.raises(RuntimeError, match="broken transform"):
        extract_features(model, make_image(0), transform=broken_transform)
    assert [module.training for module in model.modules()] == modes
    model(torch.rand(2, 3, 32, 32)).sum().backward()


def test_a_transform_that_gives_no_tensor(model: nn.Module) -> None:
    with pytest.raises(TypeError):
        extract_features(model, make_image(0), transform=np.asarray)  # type: ignore[arg-type]


def broken_transform(_: Image.Image) -> Tensor:
    raise RuntimeError("broken transform")


def test_half_precision_weights(model: nn.Module) -> None:
    expected = extract_features(model, make_image(0)).features
    half = make_model().to(torch.bfloat16)
    result = extract_features(half, make_image(0)).features
    assert result.dtype == torch.float32
    assert (result - expected).norm() < 0.05 * expected.norm()


def test_precision(model: nn.Module) -> None:
    exact = extract_features(model, make_image(0)).features
    rough = extract_features(model, make_image(0), precision="bf16").features
    assert not torch.equal(rough, exact)
    assert (rough - exact).norm() < 0.05 * exact.norm()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extract_features(model, make_image(0)).features, exact)
    auto = extract_features(model, make_image(0), precision="auto", device="cpu").features
    assert any(torch.equal(auto, result) for result in (exact, rough))


def test_tensors_as_they_are(model: nn.Module) -> None:
    ready = torch.randn(2, 3, 32, 32)
    result = extract_features(model, ready, transform="as_is")
    with torch.no_grad():
        torch.testing.assert_close(result.features, model(ready), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"input\[0\] is a"):
        extract_features(model, make_image(0), transform="as_is")
    with pytest.raises(ConfigError, match="differ in shape"):
        extract_features(model, [ready[0], ready[0, :, 1:]], transform="as_is")


@pytest.mark.parametrize(("transform", "pinned"), [("as_is", False), (None, True)])
def test_tensors_that_may_be_on_the_gpu_are_not_pinned(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, transform: Any, pinned: bool
) -> None:
    def loader(*_: object, pin_memory: bool, **__: object) -> None:
        raise RuntimeError(f"pin_memory={pin_memory}")

    monkeypatch.setattr(features, "choose_device", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(features, "DataLoader", loader)
    with pytest.raises(RuntimeError, match=f"pin_memory={pinned}"):
        extract_features(model, torch.zeros(2, 3, 32, 32), transform=transform)


def test_single_and_lazy_inputs(model: nn.Module, folder: Path) -> None:
    assert extract_features(model, str(folder / "0.png")).sources == [str(folder / "0.png")]
    assert extract_features(model, make_image(0)).sources == ["input[0]"]
    assert extract_features(model, torch.rand(3, 8, 8)).sources == ["input[0]"]
    assert len(extract_features(model, folder.glob("[01].png"))) == 2
    grey = extract_features(model, [np.full((9, 9), 7, np.uint8), torch.full((9, 9), 7 / 255)])
    assert torch.equal(grey.features[0], grey.features[1])


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def create(name: str, pretrained: bool = False) -> nn.Module:
        asked.append((name, pretrained))
        return make_model()

    monkeypatch.setattr(factory, "create_model", create)
    assert len(extract_features("resnet18_cassle_simclr", make_image(0))) == 1
    eval_transform("resnet18_cassle_simclr")
    assert asked == [("resnet18_cassle_simclr", True), ("resnet18_cassle_simclr", False)]


def test_names_of_timm_are_known_and_others_are_not() -> None:
    assert eval_transform("test_vit")(make_image(0)).shape == (3, 160, 160)
    assert eval_transform("resnet18_cassle_simclr.emoji64")(make_image(0)).shape == (3, 64, 64)
    with pytest.raises(UnknownNameError, match="resnet18_cassel"):
        extract_features("resnet18_cassel_simclr", make_image(0))


class Stream(IterableDataset[object]):
    def __iter__(self) -> Iterator[object]:
        return iter(())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": Stream()}, "IterableDataset"),
        ({"inputs": 3}, "int"),
        ({"inputs": [make_image(0), {"image": 3}]}, r"input\[1\] is a dict"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"model": make_model(global_pool="")}, r"returns \(1, 96, 1, 1\)"),
        ({"model": make_model(features_only=True)}, "returns list"),
    ],
)
def test_wrong_use(model: nn.Module, options: dict[str, object], message: str) -> None:
    arguments: dict[str, Any] = {"model": model, "inputs": make_image(0), **options}
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        extract_features(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_device_that_is_not_there(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        extract_features(model, make_image(0), device="cuda")


def test_progress_is_shown_when_asked(model: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    extract_features(model, make_image(0))
    assert capsys.readouterr() == ("", "")
    extract_features(model, make_image(0), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1/1" in shown.err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_and_model_comes_back(folder: Path) -> None:
    model = make_model()
    expected = extract_features(model, folder, device="cpu").features
    for batch_size in (1, 5):
        result = extract_features(model, folder, batch_size=batch_size).features
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_embed_returns_float32_on_the_cpu(model: nn.Module) -> None:
    features = embed(model.double(), torch.rand(2, 3, 32, 32))
    model.float()
    assert features.shape == (2, 96)
    assert features.dtype == torch.float32
