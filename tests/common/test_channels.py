"""Images of other than three channels."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import encoded, make_image, tiff
from PIL import Image

from cassle_zoo.common.bands import open_channels
from cassle_zoo.common.errors import MissingDependencyError
from cassle_zoo.common.images import UnreadableImageError, open_image

BANDS = np.random.default_rng(0).integers(0, 256, (7, 9, 5), dtype=np.uint8)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_three_channels_are_rgb() -> None:
    image = make_image().convert("RGBA")
    assert open_channels(encoded(image), 3) == open_image(encoded(image))
    array = np.asarray(make_image())
    assert open_channels(array, 3) == make_image()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_one_channel_is_the_luma(mode: str) -> None:
    image = make_image().convert(mode)
    found = open_channels(image, 1)
    assert isinstance(found, Image.Image)
    assert found == open_image(image).convert("L")
    if mode == "L":
        assert found == image


def test_one_channel_of_16_bits_and_of_arrays() -> None:
    values = np.linspace(0, 65535, 12).reshape(3, 4).astype(np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    png = encoded(Image.fromarray(values))
    for source in (png, npy(values), npy(values[..., None]), values / 65535, npy(values[None])):
        assert np.array_equal(np.asarray(open_channels(source, 1)), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_many_channels(dtype: Any, tmp_path: Path) -> None:
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    array = (BANDS.astype(np.float64) * scale).astype(dtype)
    first = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    (tmp_path / "file.npy").write_bytes(npy(array))
    sources: list[Any] = [
        array, npy(array), npy(first), tmp_path / "file.npy",
        tiff(array, photometric="minisblack", planarconfig="contig"),
        tiff(first, photometric="minisblack", planarconfig="separate", compression="zlib"),
    ]  # fmt: skip
    for source in sources:
        found = open_channels(source, 5)
        assert isinstance(found, np.ndarray)
        assert found.tolist() == BANDS.tolist()
    square = np.asarray(open_channels(npy(array[:5]), 5))  # as many rows as bands
    assert np.array_equal(square, BANDS[:5])


def test_four_bands_of_pillow() -> None:
    image = make_image().convert("RGBA")
    image.putalpha(make_image(1).convert("L"))
    assert np.array_equal(np.asarray(open_channels(encoded(image), 4)), np.asarray(image))


@pytest.mark.parametrize(
    ("source", "channels", "message"),
    [
        (encoded(make_image()), 4, r"takes 4 channels, but the image is \(34, 40, 3\)"),
        (npy(BANDS), 4, r"takes 4 channels, but the image is \(7, 9, 5\)"),
        (npy(BANDS[None]), 5, r"image is \(1, 7, 9, 5\)"),
        (npy(BANDS[:0]), 5, r"image is \(0, 9, 5\)"),
        (npy(BANDS.astype(np.int64)), 5, "values of type int64"),
        (npy(BANDS.astype(np.float32)), 5, "values from 0 to 255; expected 0 to 1"),
        (npy(np.full((4, 4, 5), np.nan)), 5, "not finite"),
        (npy(BANDS)[:-3], 5, "Cannot read image 'in memory'"),
        (npy(np.array([{}])), 5, "pickle"),
        (b"II*\0 no more", 5, "Cannot read image 'in memory'"),
        (b"nothing", 5, "Cannot read image 'in memory'"),
        ("no-such-file.npy", 5, "Cannot read image 'no-such-file.npy': No such file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 4, "not an image"),
    ],
)
def test_what_cannot_be_read(source: Any, channels: int, message: str) -> None:
    with pytest.raises(UnreadableImageError, match=message):
        open_channels(source, channels)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        open_channels(tmp_path / "pipe.npy", 5)


def test_tifffile_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    content = tiff(BANDS, photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(MissingDependencyError, match=r"cassle-zoo\[tiff\]"):
        open_channels(content, 5)
