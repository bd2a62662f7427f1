"""The datasets for evaluation, by name."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from cassle_zoo.common.errors import ConfigError, unknown_name
from cassle_zoo.data.emoji64 import HOW_TO_GET
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets import emoji64, folders, hf, keypoints, own, voc
from cassle_zoo.eval.datasets.split_rules import SplitConfig
from cassle_zoo.eval.datasets.torchvision_sets import TORCHVISION_SETS, open_torchvision

FOLDER = "folder"
DATASETS: Mapping[str, Callable[..., EvalData]] = MappingProxyType(
    {
        "emoji64": emoji64.open_data,
        FOLDER: own.open_folder,
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


def open_data(
    name: str,
    root: str | Path,
    *,
    download: bool = False,
    split: SplitConfig | None = None,
    max_bad_fraction: float = 0.05,
) -> EvalData:
    """Open a dataset.

    Args:
        name: One of `DATASETS`.
        root: The folder or archive that holds it.
        download: Download it into `root` if it is not there and torchvision can download it.
        split: How to split a `folder` of classes; by default `SplitConfig()`.
        max_bad_fraction: Fraction of the images of such a folder that may be unreadable.

    Raises:
        UnknownNameError: If there is no such dataset.
        DataError: If it is not in `root`, or is not what it should be.
        ConfigError: If `download` is set but it cannot be downloaded, or `split` is given but it
            has splits of its own.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    if split is not None and name != FOLDER:
        raise ConfigError(f"--split is for --dataset {FOLDER}; {name} has splits of its own.")
    if name in DOWNLOADABLE:
        return DATASETS[name](Path(root), download)
    if download:
        hint = HOW_TO_GET if name == "emoji64" else "Put it there yourself."
        raise ConfigError(f"{name} cannot be downloaded by this library. {hint}")
    if name == FOLDER:
        return own.open_folder(Path(root), split=split, max_bad_fraction=max_bad_fraction)
    return DATASETS[name](Path(root))
