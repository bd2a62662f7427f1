import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_images import bomb
from builders import encoded, make_image
from PIL import Image

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import (
    UnreadableImageError,
    array_to_image,
    open_image,
    to_rgb,
)

RED = (255, 0, 0)


def red_and_blue(width: int = 8, height: int = 6) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.bmp", "a.gif", "a.ppm"])
def test_usual_formats(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name == "a.webp" else {}
    image = open_image(saved(red_and_blue(), tmp_path / name, **options))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(red_and_blue()))


def test_path_text_bytes_and_open_file_agree(tmp_path: Path) -> None:
    path = saved(red_and_blue(), tmp_path / "a.png")
    content = path.read_bytes()
    for source in (path, str(path), content, io.BytesIO(content)):
        assert open_image(source).tobytes() == red_and_blue().tobytes()


def test_wrong_ending_does_not_matter(tmp_path: Path) -> None:
    path = saved(red_and_blue(), tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert open_image(path).size == (8, 6)


def test_very_long_and_unicode_name(tmp_path: Path) -> None:
    assert open_image(saved(red_and_blue(), tmp_path / f"{'ż' * 120}🙂.png")).size == (8, 6)


def test_exif_rotation_is_applied_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to display
    path = saved(red_and_blue(), tmp_path / "a.png", exif=exif)
    image = open_image(path)
    assert image.size == (6, 8)
    assert image.getpixel((0, 0)) == RED
    assert image.getpixel((0, 7)) == (0, 0, 255)
    assert open_image(image).size == (6, 8)


@pytest.mark.parametrize("mode", ["L", "I;16", "CMYK", "RGBA"])
def test_rotation_of_tiff_files_that_pillow_maps_into_memory(tmp_path: Path, mode: str) -> None:
    image = red_and_blue().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(image, tmp_path / "a.tif", exif=exif)
    expected = to_rgb(image.transpose(Image.Transpose.ROTATE_270))
    assert open_image(path).tobytes() == expected.tobytes()


def test_a_tiff_of_floats_is_not_told_that_rgb_is_needed() -> None:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((4, 5, 3), np.float32), photometric="rgb")
    with pytest.raises(UnreadableImageError, match="save it with 8 bits per band"):
        open_image(file.getvalue())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    path = saved(red_and_blue(), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert open_image(path).size == (8, 6)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "La", "RGBa"])
def test_transparent_becomes_white(mode: str) -> None:
    if mode == "PA":
        image = Image.new("PA", (2, 1))
        image.putpalette([0, 0, 0] * 256)
    else:
        image = Image.new("LA" if mode.upper() == "LA" else "RGBA", (2, 1), 0)
    image.putpixel((1, 0), (0,) * (len(image.getbands()) - 1) + (255,))
    image = image if mode in ("PA", image.mode) else image.convert(mode)
    assert image.mode == mode
    rgb = to_rgb(image)
    assert [rgb.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 0)]


def test_half_transparent_is_blended() -> None:
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 128))).getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_single_transparent_colour(tmp_path: Path, mode: str) -> None:
    image = Image.new("L", (2, 1), 0)
    image.putpixel((1, 0), 200)
    image = image.convert(mode)
    transparent = {"P": image.getpixel((0, 0)), "L": 0, "RGB": (0, 0, 0)}[mode]
    rgb = open_image(saved(image, tmp_path / "a.png", transparency=transparent))
    assert [rgb.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (200, 200, 200)]


def test_palette(tmp_path: Path) -> None:
    path = saved(red_and_blue().quantize(2), tmp_path / "a.png")
    assert open_image(path).tobytes() == red_and_blue().tobytes()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "1"])
def test_other_colour_spaces(mode: str) -> None:
    if mode == "LAB":  # L 54 %, a +81, b +70: red
        image = Image.frombytes("LAB", (1, 1), bytes([138, 81, 70]))
    elif mode == "1":
        assert to_rgb(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)
        return
    else:
        image = Image.new("RGB", (1, 1), RED).convert(mode)
    assert np.abs(np.asarray(to_rgb(image), int)[0, 0] - RED).max() <= 6


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg")
    assert np.abs(np.asarray(open_image(path), int)[4, 4] - RED).max() <= 3


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path: Path, ending: str) -> None:
    for brightest in (65535, 257 * 120):  # dark images stay dark
        values = np.array([[0, 257 * 100, brightest]], np.uint16)
        path = saved(Image.fromarray(values), tmp_path / f"a.{ending}")
        assert np.asarray(open_image(path))[0, :, 0].tolist() == [0, 100, brightest // 257]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257 * 100, 65535]], np.int32), [0, 100, 255]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.4, 1]], np.float32), [0, 102, 255]),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[-10, 0, 10]], np.float32), [0, 128, 255]),
        (np.array([[300, 300, 300]], np.float32), [0, 0, 0]),
    ],
)
def test_integer_and_float_images(values: np.ndarray, expected: list[int]) -> None:
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == expected


def test_not_finite_image() -> None:
    with pytest.raises(DataError, match="not finite"):
        open_image(Image.fromarray(np.array([[0, np.nan]], np.float32)))


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_first_frame(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, (0, 255, 0))]
    options: Any = {"lossless": True} if ending == "webp" else {}
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert open_image(path).getpixel((0, 0)) == RED


def test_given_image_is_not_changed() -> None:
    image = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    open_image(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "not an image"),
        (encoded(make_image())[:2000], "truncated"),
        (bomb(), "178,956,970 pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    ],
)
def test_unreadable(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match=reason) as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    with pytest.raises(DataError, match=reason):
        open_image(content)  # as it comes from tar files and addresses
    assert limit == Image.MAX_IMAGE_PIXELS


def test_missing_folder_pipe_and_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in [("none.png", "No such file"), (".", "folder"), ("pipe.png", "regular")]:
        with pytest.raises(DataError, match=reason):
            open_image(tmp_path / path)
    saved(red_and_blue(), tmp_path / "a.png")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # root may read everything
    with pytest.raises(DataError, match="Permission denied"):
        open_image(tmp_path / "a.png")


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("a.png", "broken")))
    assert (error.source, error.reason) == ("a.png", "broken")


@pytest.mark.parametrize(
    "array",
    [
        np.array([[[255, 0, 0]]], np.uint8),
        np.array([[[65535, 0, 0]]], np.uint16),
        np.array([[[1, 0, 0]]], np.float32),
        np.array([[[1, 0, 0]]], np.float16),
        np.array([[[True, False, False]]]),
        np.array([[[255, 0, 0, 255]]], np.uint8),
    ],
)
def test_arrays_of_all_types_agree(array: np.ndarray) -> None:
    assert array_to_image(array).getpixel((0, 0)) == RED


@pytest.mark.parametrize("values", [[[7]], [[[7]]], [[[7, 255]]]])
def test_grey_arrays(values: list[Any]) -> None:
    assert array_to_image(np.array(values, np.uint8)).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 64, 64), np.uint8), r"\(3, 64, 64\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros(4, np.uint8), "shape"),
        (np.full((2, 2), 200.0), "to 200"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.zeros((2, 2), np.int64), "int64"),
    ],
)
def test_bad_arrays(array: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        array_to_image(array)
