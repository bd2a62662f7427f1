"""The datasets for evaluation, by name."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from cassle_zoo.common.errors import ConfigError, unknown_name
from cassle_zoo.data.emoji64 import HOW_TO_GET
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets import emoji64, folders, hf, keypoints, voc
from cassle_zoo.eval.datasets.torchvision_sets import TORCHVISION_SETS, open_torchvision

DATASETS: Mapping[str, Callable[..., EvalData]] = MappingProxyType(
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
"""`open(root)`; those of `DOWNLOADABLE` are `open(root, download)`."""

DOWNLOADABLE = frozenset({*TORCHVISION_SETS, "sun397", "celeba", voc.NAME})


def open_data(name: str, root: str | Path, *, download: bool = False) -> EvalData:
    """Open a dataset.

    Args:
        name: One of `DATASETS`.
        root: The folder or archive that holds it.
        download: Download it into `root` if it is not there and torchvision can download it.

    Raises:
        UnknownNameError: If there is no such dataset.
        DataError: If it is not in `root`, or is not what it should be.
        ConfigError: If it cannot be downloaded, but `download` is set.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    if name in DOWNLOADABLE:
        return DATASETS[name](Path(root), download)
    if download:
        hint = HOW_TO_GET if name == "emoji64" else "Put it there yourself."
        raise ConfigError(f"{name} cannot be downloaded by this library. {hint}")
    return DATASETS[name](Path(root))
