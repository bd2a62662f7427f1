import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from cassle_zoo import factory, features
from cassle_zoo.errors import ConfigError, DataError, UnknownNameError
from cassle_zoo.features import eval_transform, extract_features
from cassle_zoo.inference import embed
from cassle_zoo.inputs import Skipped

SMALL = {"input_size": (3, 32, 32), "crop_pct": 1.0}


def make_model(name: str = "test_resnet", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 0, "pretrained_cfg_overlay": SMALL, **options})


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make_model().eval()


def picture(seed: int, width: int = 40, height: int = 34) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hold five pictures, a broken one and a text."""
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for index in range(5):
        picture(index).save(root / ("sub" if index > 2 else "") / f"{index}.png")
    (root / "2b.png").write_bytes((root / "2.png").read_bytes()[:900])
    (root / "notes.txt").write_text("nothing to see")
    return root


def reference(model: nn.Module, images: list[Image.Image]) -> Tensor:
    transform = eval_transform(model)
    with torch.no_grad():
        return model(torch.stack([transform(image) for image in images]))


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
    expected = reference(model, [picture(index) for index in range(5)])
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


def test_all_forms_of_a_picture_agree(model: nn.Module, tmp_path: Path) -> None:
    image = picture(0)
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    inputs = [
        tmp_path / "a.png",
        tmp_path,
        image,
        array,
        array.astype(np.uint16) * 257,
        array / 255,
        tensor,
        tensor / 255,
        (tensor / 255).requires_grad_(),
        torch.stack([tensor, tensor]),
        array[None],
    ]
    result = extract_features(model, inputs)
    file = str(tmp_path / "a.png")
    places = ["2", "3", "4", "5", "6", "7", "8", "9][0", "9][1", "10][0"]
    assert result.sources == [file, file, *(f"input[{place}]" for place in places)]
    torch.testing.assert_close(
        result.features, result.features[:1].expand(12, -1), atol=1e-5, rtol=0
    )


def test_single_and_lazy_inputs(model: nn.Module, folder: Path) -> None:
    assert extract_features(model, str(folder / "0.png")).sources == [str(folder / "0.png")]
    assert extract_features(model, picture(0)).sources == ["input[0]"]
    assert extract_features(model, torch.rand(3, 8, 8)).sources == ["input[0]"]
    assert len(extract_features(model, folder.glob("[01].png"))) == 2
    grey = extract_features(model, [np.full((9, 9), 7, np.uint8), torch.full((9, 9), 7 / 255)])
    assert torch.equal(grey.features[0], grey.features[1])


class Pictures(Dataset[object]):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> object:
        if index == 1:
            return Image.open(io.BytesIO(b"broken")), 0
        image = picture(index)
        return {"plain": image, "pair": (image, 7), "dict": {"image": image, "label": 7}}[self.kind]


@pytest.mark.parametrize("kind", ["plain", "pair", "dict"])
def test_data_sets(model: nn.Module, kind: str) -> None:
    result = extract_features(model, Pictures(kind), num_workers=1)
    assert result.sources == ["dataset[0]", "dataset[2]"]
    assert result.skipped[0].source == "dataset[1]"
    expected = reference(model, [picture(0), picture(2)])
    torch.testing.assert_close(result.features, expected, atol=1e-5, rtol=1e-5)


def test_mistakes_in_a_data_set_are_not_hidden(model: nn.Module) -> None:
    with pytest.raises(KeyError, match="unknown"):
        extract_features(model, Pictures("unknown"))


def test_bad_arrays_are_left_out(model: nn.Module) -> None:
    result = extract_features(model, [np.full((8, 8, 3), 200.0), picture(0)])
    assert result.sources == ["input[1]"]
    assert result.skipped[0].source == "input[0]"
    assert "200" in result.skipped[0].reason


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 5000)])
def test_thin_pictures(model: nn.Module, size: tuple[int, int]) -> None:
    result = extract_features(model, picture(0, *size))
    assert result.features.isfinite().all()


def test_very_long_pictures_do_not_fill_the_memory(model: nn.Module) -> None:
    image = Image.new("RGB", (1, 3_000_000), "red")
    image.paste("blue", (0, 1_499_000, 1, 1_501_000))
    sample = eval_transform(model)(image)
    assert torch.equal(sample, eval_transform(model)(Image.new("RGB", (32, 32), "blue")))


def test_long_pictures_are_cropped_as_before(model: nn.Module) -> None:
    image = picture(3, 40, 40 * 20)
    middle = image.crop((0, 40 * 8, 40, 40 * 12))
    assert torch.equal(eval_transform(model)(image), eval_transform(model)(middle))


def test_transform_is_timms(model: nn.Module) -> None:
    config = timm.data.resolve_model_data_config(model)
    expected = timm.data.create_transform(**config, is_training=False)
    transform = pickle.loads(pickle.dumps(eval_transform(model)))
    assert torch.equal(transform(picture(0)), expected(picture(0)))
    assert transform(Image.new("RGBA", (9, 9))).max() == 1  # transparent is white


def test_one_channel() -> None:
    model = make_model(in_chans=1)
    sample = eval_transform(model)(Image.new("RGB", (50, 40), "white"))
    assert sample.shape == (1, 32, 32)
    torch.testing.assert_close(sample, torch.ones(1, 32, 32))  # mean and std are 0.5
    assert extract_features(model, picture(0)).features.shape == (1, 96)


def test_other_numbers_of_channels_need_a_transform() -> None:
    model = make_model(in_chans=4)
    with pytest.raises(ConfigError, match="4 channels"):
        extract_features(model, picture(0))
    result = extract_features(model, picture(0), transform=lambda _: torch.zeros(4, 32, 32))
    assert result.features.shape == (1, 96)


def test_vit_gets_the_size_it_was_built_for() -> None:
    model = make_model("test_vit", img_size=48)
    assert eval_transform(model)(picture(0)).shape == (3, 48, 48)
    assert extract_features(model, picture(0)).features.shape == (1, 64)


def test_module_without_configuration() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert eval_transform(module)(picture(0)).shape == (3, 224, 224)
    assert extract_features(module, picture(0)).features.shape == (1, 5)


def test_classifier_is_left_out(model: nn.Module) -> None:
    classifier = make_model(num_classes=10)
    classifier.load_state_dict(model.state_dict(), strict=False)
    expected = extract_features(model, picture(0)).features
    assert torch.equal(extract_features(classifier, picture(0)).features, expected)


def test_model_is_left_as_it_was() -> None:
    model = make_model().train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    result = extract_features(model, [picture(0), picture(1)], device="cpu")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not result.features.requires_grad
    with pytest.raises(RuntimeError, match="broken transform"):
        extract_features(model, picture(0), transform=broken_transform)
    assert [module.training for module in model.modules()] == modes
    model(torch.rand(2, 3, 32, 32)).sum().backward()


def broken_transform(_: Image.Image) -> Tensor:
    raise RuntimeError("broken transform")


def test_half_precision_weights(model: nn.Module) -> None:
    expected = extract_features(model, picture(0)).features
    half = make_model().to(torch.bfloat16)
    result = extract_features(half, picture(0)).features
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=0.05, rtol=0.1)


def test_precision(model: nn.Module) -> None:
    exact = extract_features(model, picture(0)).features
    rough = extract_features(model, picture(0), precision="bf16").features
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extract_features(model, picture(0)).features, exact)
    auto = extract_features(model, picture(0), precision="auto", device="cpu").features
    assert any(torch.equal(auto, result) for result in (exact, rough))


def test_tensors_as_they_are(model: nn.Module) -> None:
    ready = torch.randn(2, 3, 32, 32)
    result = extract_features(model, ready, transform="as_is")
    with torch.no_grad():
        torch.testing.assert_close(result.features, model(ready), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"input\[0\] is a"):
        extract_features(model, picture(0), transform="as_is")
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


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def create(name: str, pretrained: bool = False) -> nn.Module:
        asked.append((name, pretrained))
        return make_model()

    monkeypatch.setattr(factory, "create_model", create)
    assert len(extract_features("resnet18_cassle_simclr", picture(0))) == 1
    eval_transform("resnet18_cassle_simclr")
    assert asked == [("resnet18_cassle_simclr", True), ("resnet18_cassle_simclr", False)]


def test_names_of_timm_are_known_and_others_are_not() -> None:
    assert eval_transform("test_vit")(picture(0)).shape == (3, 160, 160)
    assert eval_transform("resnet18_cassle_simclr.emoji64")(picture(0)).shape == (3, 64, 64)
    with pytest.raises(UnknownNameError, match="resnet18_cassel"):
        extract_features("resnet18_cassel_simclr", picture(0))


def test_nothing_to_read(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "none").mkdir()
    for inputs, message in [
        ([], "No pictures were given"),
        (tmp_path / "bad.png", "bad.png.*empty"),
        (tmp_path / "none", "none.*holds no pictures"),
        ([picture(0), tmp_path / "missing.png"], "missing.png"),
    ]:
        with pytest.raises(DataError, match=message):
            extract_features(model, inputs)


def test_empty_folder_among_others_is_reported(model: nn.Module, tmp_path: Path) -> None:
    result = extract_features(model, [picture(0), tmp_path])
    assert result.skipped == [Skipped(str(tmp_path), "the folder holds no pictures")]


def test_archives_are_to_be_unpacked(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "emoji64.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"emoji64.tar': an archive: unpack it and give the folder"):
        extract_features(model, tmp_path / "emoji64.tar")


class Stream(IterableDataset[object]):
    def __iter__(self) -> Iterator[object]:
        return iter(())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": Stream()}, "IterableDataset"),
        ({"inputs": 3}, "int"),
        ({"inputs": [picture(0), {"image": 3}]}, r"input\[1\] is a dict"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"precision": "fp8"}, "fp8"),
        ({"model": make_model(global_pool="")}, r"returns \(1, 96, 1, 1\)"),
        ({"model": make_model(features_only=True)}, "returns list"),
    ],
)
def test_wrong_use(model: nn.Module, options: dict[str, object], message: str) -> None:
    arguments = {"model": model, "inputs": picture(0), **options}
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        extract_features(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_device_that_is_not_there(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        extract_features(model, picture(0), device="cuda")


def test_progress_is_shown_when_asked(model: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    extract_features(model, picture(0))
    assert capsys.readouterr() == ("", "")
    extract_features(model, picture(0), progress=True)
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
