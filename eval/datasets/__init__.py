"""Datasets to measure on, by name."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from cassle_zoo.common.errors import unknown_name
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets import emoji64, folders, hf, keypoints, voc
from cassle_zoo.eval.datasets.torchvision_sets import TORCHVISION_SETS, open_torchvision

Opener = Callable[..., EvalData]
"""`open(root, download)`: fetches nothing unless `download`."""

DATASETS: Mapping[str, Opener] = MappingProxyType(
    {
        "emoji64": emoji64.open_data,
        "folder": folders.open_folder,
        "hf": hf.open_hf,
        **{name: partial(open_torchvision, name) for name in TORCHVISION_SETS},
        "mit67": folders.open_mit67,
        "sun397": folders.open_sun397,
        "cub200": folders.open_cub200,
        "imagenet100": folders.open_imagenet100,
        "lspose": keypoints.open_lspose,
        "300w": keypoints.open_300w,
        "celeba": keypoints.open_celeba,
        voc.NAME: voc.open_data,
        "fc100": partial(folders.open_pool, "fc100", "test"),
        "plant_disease": partial(folders.open_pool, "plant_disease", "train"),
    }
)


def open_data(name: str, root: str | Path, *, download: bool = False) -> EvalData:
    """Open a dataset.

    Args:
        name: One of `DATASETS`.
        root: Folder or archive that holds it.
        download: Whether it may be fetched into `root`, if it is one that torchvision can fetch.

    Raises:
        UnknownNameError: If there is no such dataset.
        DataError: If it is not in `root`, or is not what it should be.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    return DATASETS[name](Path(root), download)
