"""Images, folders of images and tar files for tests: seeded noise, so that no two are alike."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def make_image(seed: int = 0, size: tuple[int, int] = (40, 34)) -> Image.Image:
    """Return noise of `size` (width, height)."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the content of a file of a kind that Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(array: Any, **options: Any) -> bytes:
    """Return the content of a TIFF of any number of channels."""
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def image_folder(root: Path, names: Iterable[str], size: tuple[int, int] = (28, 20)) -> Path:
    """Write an image under each name, which may be a path, into a folder; return the folder."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_image(seed, size).save(path)
    return root


def write_tar(path: Path, content: Mapping[str, bytes]) -> Path:
    """Write a tar file of the files by name; return its path."""
    with tarfile.open(path, "w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
