import io
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_image
from PIL import Image
from small_models import make_model, reference
from torch import nn
from torch.utils.data import Dataset

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.inputs import Skipped


def test_all_forms_of_an_image_agree(model: nn.Module, tmp_path: Path) -> None:
    image = make_image(0)
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


class Images(Dataset[object]):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> object:
        if index == 1:
            return Image.open(io.BytesIO(b"broken")), 0
        image = make_image(index)
        return {"plain": image, "pair": (image, 7), "dict": {"image": image, "label": 7}}[self.kind]


@pytest.mark.parametrize("kind", ["plain", "pair", "dict"])
def test_datasets(model: nn.Module, kind: str) -> None:
    result = extract_features(model, Images(kind), num_workers=1)
    assert result.sources == ["dataset[0]", "dataset[2]"]
    assert result.skipped[0].source == "dataset[1]"
    expected = reference(model, [make_image(0), make_image(2)])
    torch.testing.assert_close(result.features, expected, atol=1e-5, rtol=1e-5)


def test_mistakes_in_a_dataset_are_not_hidden(model: nn.Module) -> None:
    with pytest.raises(KeyError, match="unknown"):
        extract_features(model, Images("unknown"))


def test_bad_arrays_are_left_out(model: nn.Module) -> None:
    result = extract_features(model, [np.full((8, 8, 3), 200.0), make_image(0)])
    assert result.sources == ["input[1]"]
    assert result.skipped[0].source == "input[0]"
    assert "200" in result.skipped[0].reason


@pytest.mark.parametrize("channels", [3, 5])
def test_shapes_of_tensors_are_named_as_given(channels: int) -> None:
    with pytest.raises((DataError, ConfigError), match=rf"\(40, 50, {channels}\)"):
        extract_features(make_model(in_chans=channels), torch.rand(40, 50, channels))


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 5000)])
def test_thin_images(model: nn.Module, size: tuple[int, int]) -> None:
    result = extract_features(model, make_image(0, size))
    assert result.features.isfinite().all()


def test_nothing_to_read(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "none").mkdir()
    for inputs, message in [
        ([], "No images were given"),
        (tmp_path / "bad.png", "bad.png.*empty"),
        (tmp_path / "none", "none.*holds no images"),
        ([make_image(0), tmp_path / "missing.png"], "missing.png"),
    ]:
        with pytest.raises(DataError, match=message):
            extract_features(model, inputs)


def test_empty_folder_among_others_is_reported(model: nn.Module, tmp_path: Path) -> None:
    result = extract_features(model, [make_image(0), tmp_path])
    assert result.skipped == [Skipped(str(tmp_path), "the folder holds no images")]


def test_archives_are_to_be_unpacked(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "emoji64.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"emoji64\.tar'.*unpack it"):
        extract_features(model, tmp_path / "emoji64.tar")
