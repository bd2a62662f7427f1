"""Data sets to measure on, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from cassle_zoo.errors import unknown_name
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets import emoji64

Opener = Callable[..., EvalData]
"""`open(root, download)`: fetches nothing unless `download`."""

DATASETS: Mapping[str, Opener] = MappingProxyType({"emoji64": emoji64.open_data})


def open_data(name: str, root: str | Path, *, download: bool = False) -> EvalData:
    """Open a data set.

    Args:
        name: One of `DATASETS`.
        root: Folder or archive that holds it.
        download: Whether it may be fetched into `root`, if it is one that torchvision can fetch.

    Raises:
        UnknownNameError: If there is no such data set.
        DataError: If it is not in `root`, or is not what it should be.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name](Path(root), download)
