"""The decoders' callers: for any bytes an image or an error of ours."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import encoded, make_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import UnreadableImageError, array_to_image, open_image
from cassle_zoo.features.extract import extract_features
from cassle_zoo.train.data.loading import Crops, MapViews

pytestmark = pytest.mark.slow

KINDS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "ICO", "JPEG2000", "PCX", "SGI")

Image.init()  # else only the usual kinds are known
IMAGE = make_image(size=(20, 20))
# Not all builds of Pillow have all kinds.
ENCODED = {kind: encoded(IMAGE, kind) for kind in KINDS if kind in Image.SAVE}


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """Bytes like those of an image; most changes hit the header, where they do most."""
    kind = draw(st.sampled_from(sorted(ENCODED)))
    content = bytearray(ENCODED[kind])
    for _ in range(draw(st.integers(1, 8))):
        last = len(content) - 1 if draw(st.booleans()) else min(60, len(content) - 1)
        content[draw(st.integers(0, last))] = draw(st.sampled_from([0, 1, 127, 128, 255, 64]))
    if draw(st.integers(0, 3)) == 0:
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


@given(images() | st.binary(max_size=200))
def test_open_image(content: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_image(content)
        except UnreadableImageError as error:
            assert error.reason
        else:
            assert image.mode == "RGB"
            assert min(image.size) > 0


SHAPES = st.lists(st.integers(0, 5), max_size=4)
DTYPES = st.sampled_from(["u1", "u2", "i4", "f2", "f4", "f8", "?", "c8", "U2", "O"])


@given(SHAPES, DTYPES, st.floats())
def test_arrays(shape: list[int], dtype: str, value: float) -> None:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.zeros(shape, dtype)
        if dtype[0] == "f":
            array[...] = value
        try:
            assert array_to_image(array).mode == "RGB"
        except DataError as error:
            assert str(error)


class Images:
    """Every other image is good."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return open_image(self.content if index else ENCODED["PNG"]), 0


@given(images())
def test_training_goes_on(content: bytes) -> None:
    views = MapViews(Images(content), Crops(AugmentConfig(size=8), seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample = views[0, 1]
    assert sample["crops"].shape == (2, 3, 8, 8)
    assert int(sample["bad"]) in (-1, 1)


@given(st.lists(images(), max_size=3))
def test_extraction_goes_on(tmp_path: Path, contents: list[bytes]) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    for index, content in enumerate([ENCODED["PNG"], *contents]):
        (folder / f"{index}.png").write_bytes(content)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = extract_features(model, folder, progress=False)
    assert len(found) + len(found.skipped) == 1 + len(contents)
    assert found.sources[0].endswith("0.png")
