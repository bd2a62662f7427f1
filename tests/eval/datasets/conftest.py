"""Writes tiny datasets as the originals are laid out on disk."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cassle_zoo.eval.base import EvalData


@pytest.fixture
def save_image() -> Callable[..., None]:
    """`save(path, size)`: an image whose colour depends on its name, so that no two are alike.

    It is a PPM whatever its ending, so that its bytes, and with them the hash of a dataset, do not
    depend on an encoder.
    """

    def save(path: Path, size: tuple[int, int] = (8, 6)) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = path.stem.rjust(3, "_").encode()[-3:]
        path.write_bytes(b"P6 %d %d 255\n" % size + colour * (size[0] * size[1]))

    return save


@pytest.fixture
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision take files that are not the published ones."""
    for module in ("cifar", "stl10", "flowers102", "celeba"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity",
            lambda path, md5=None: os.path.isfile(path),
        )


@pytest.fixture
def identity() -> Callable[[EvalData], str]:
    """`identity(data)`: all that recorded results depend on, hash, names, labels and splits."""

    def identity(data: EvalData) -> str:
        (task,) = data.tasks
        splits = {name: rows.tolist() for name, rows in task.splits.items()}
        known = (data.name, data.sha256, data.names, task.targets.tolist(), splits)
        return hashlib.sha256(repr(known).encode()).hexdigest()[:16]

    return identity
