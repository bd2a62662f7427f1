"""JPEGs decoded at a fraction of their size show the same image."""

import functools
from typing import Any

import numpy as np
import pytest
from builders import encoded
from PIL import Image

from cassle_zoo.common.images import open_image, open_reduced

ORIENTATION = 0x0112


def scene(width: int = 801, height: int = 603) -> Image.Image:
    """A smooth image that differs in every direction, of odd size."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = np.stack([x, y, (x * y + np.sin(7 * x)) / 2 % 1], -1)
    return Image.fromarray((255 * planes).astype(np.uint8))


jpeg = functools.partial(encoded, kind="JPEG", quality=95)


def difference(content: bytes, most: float) -> float:
    """Mean difference from the image decoded in full and made as small."""
    full, reduced = open_image(content), open_image(content, reduction=lambda *_: most)
    small = full.resize(reduced.size, Image.Resampling.BOX)
    return float(np.abs(np.asarray(small, float) - np.asarray(reduced, float)).mean())


@pytest.mark.parametrize(("most", "size"), [(1.9, (801, 603)), (2, (401, 302)), (3.9, (401, 302)),
    (4, (201, 151)), (8, (101, 76)), (100, (101, 76))])  # fmt: skip
def test_the_smallest_allowed_scale(most: float, size: tuple[int, int]) -> None:
    image, full = open_reduced(jpeg(scene()), lambda *_: most)
    assert (image.size, image.mode, full) == (size, "RGB", (801, 603))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = jpeg(scene(), exif=exif)
    image, full = open_reduced(content, lambda *_: 4)
    assert full == open_image(content).size
    assert image.size == ((201, 151) if orientation < 5 else (151, 201))
    assert difference(content, 4) < 2


@pytest.mark.parametrize("orientation", [0, 9, 4242])
def test_orientations_that_do_not_exist(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image, full = open_reduced(jpeg(scene(), exif=exif), lambda *_: 4)
    assert (image.size, full) == ((201, 151), (801, 603))


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_kinds_of_jpeg(mode: str, options: dict[str, Any]) -> None:
    content = jpeg(scene().convert(mode), **options)
    assert open_image(content, reduction=lambda *_: 2).mode == "RGB"
    assert difference(content, 2) < 3


def test_a_reduction_is_asked_about_the_stored_size() -> None:
    asked: list[tuple[int, int]] = []

    def reduction(width: int, height: int) -> float:
        asked.append((width, height))
        return 1

    assert open_image(jpeg(scene()), reduction=reduction).size == (801, 603)
    assert asked == [(801, 603)]


def test_small_and_other_images_are_decoded_in_full() -> None:
    assert open_image(encoded(scene()), reduction=lambda *_: 8).size == (801, 603)
    assert open_image(scene(), reduction=lambda *_: 8).size == (801, 603)
    assert open_image(jpeg(scene(5, 4)), reduction=lambda *_: 8).size == (5, 4)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_cut_off_files_are_still_refused(cut: float) -> None:
    content = jpeg(scene())
    with pytest.raises(Exception, match="truncated"):
        open_image(content[: int(cut * len(content))], reduction=lambda *_: 4)
