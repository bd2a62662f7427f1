"""MIT-67, CUB-200 and SUN397: class folders with lists of training and test images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torchvision.datasets import SUN397
from torchvision.datasets.utils import download_and_extract_archive

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets.files import published_name, read_lines, read_pairs, shown
from cassle_zoo.eval.datasets.folders import (
    ClassFolders,
    assemble,
    read_part,
    read_within,
    refuse_download,
)
from cassle_zoo.eval.datasets.split_rules import RandomSplit, consecutive, index_lists

_MIT67_RULE = RandomSplit(train=4690, val=670, seed=51)
_CUB200_SIZES = (5990, 5994)
_SUN_LISTS = ("Training_01.txt", "Testing_01.txt")
_SUN_PARTITIONS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"


def open_mit67(root: Path, download: bool = False) -> EvalData:
    """Open MIT Indoor-67 as folders `train` and `test`, or with the published lists.

    Raises:
        DataError: If files are missing.
    """
    refuse_download("mit67", download)
    if (root / "TrainImages.txt").is_file():
        parts = _read_lists(root, {"trainval": "TrainImages.txt", "test": "TestImages.txt"})
    else:
        parts = _read_pair(root, "mit67", "Images/CLASS/*.jpg, TrainImages.txt, TestImages.txt")
    sizes = {part: len(found.names) for part, found in parts.items()}
    name, notes = published_name("mit67", sizes, {"trainval": 5360, "test": 1340})
    splits = {**_MIT67_RULE.apply(sizes["trainval"]), "test": consecutive(sizes)["test"]}
    notes["splits"] = f"{_MIT67_RULE.describe(sizes['trainval'])} / test"
    return assemble(name, root, parts, splits, notes)


def open_cub200(root: Path, download: bool = False) -> EvalData:
    """Open CUB-200-2011 as folders `train` and `test`, or as published.

    Raises:
        DataError: If files are missing, or the official index lists do not fit.
    """
    refuse_download("cub200", download)
    if (root / "train_test_split.txt").is_file():
        parts = _read_cub200(root)
    else:
        layout = "images/CLASS/*.jpg, images.txt, train_test_split.txt (CUB_200_2011)"
        parts = _read_pair(root, "cub200", layout)
    sizes = {part: len(found.names) for part, found in parts.items()}
    if sizes["trainval"] not in _CUB200_SIZES:
        raise DataError(
            f"{root}: {sizes['trainval']:,} training images; the official index lists are for "
            f"{_CUB200_SIZES[0]:,} and are used for the {_CUB200_SIZES[1]:,} of CUB_200_2011 too."
        )
    val = torch.tensor(index_lists("cub200")["val"])
    rest = torch.ones(sizes["trainval"], dtype=torch.bool)
    rest[val] = False
    splits = {"train": rest.nonzero().flatten(), "val": val, "test": consecutive(sizes)["test"]}
    rule = "splits/cub200.json of the official code: its 1,000 for validation, train is the rest"
    return assemble("cub200", root, parts, splits, {"splits": rule})


def open_sun397(root: Path, download: bool = False) -> EvalData:
    """Open SUN397 with its first partition, in the order of its lists (torchvision's is no order).

    Raises:
        DataError: If files are missing, or the official index lists do not fit.
    """
    if download:
        _fetch_sun397(root)
    inner = root / "SUN397" if (root / "SUN397").is_dir() else root
    lists = next((f for f in (root, root / "Partitions") if (f / _SUN_LISTS[0]).is_file()), None)
    if lists is None or not (inner / "ClassName.txt").is_file():
        raise DataError(
            f"sun397: expected in {root}: SUN397/ClassName.txt, SUN397/LETTER/CLASS/*.jpg, and of "
            f"Partitions.zip {' and '.join(_SUN_LISTS)}. --download fetches them."
        )
    classes = [line.strip("/") for line in read_lines(inner / "ClassName.txt")]
    trainval, test = (_read_sun397(lists / name, classes) for name in _SUN_LISTS)
    official = index_lists("sun397")
    expected = sum(map(len, official.values()))
    if len(trainval.names) != expected:
        raise DataError(
            f"sun397: {_SUN_LISTS[0]} has {len(trainval.names):,} lines; the official index lists "
            f"are for {expected:,}."
        )
    parts = {"trainval": trainval, "test": test}
    splits = {split: torch.tensor(indices) for split, indices in official.items()}
    splits |= {"test": consecutive({part: len(p.names) for part, p in parts.items()})["test"]}
    rule = f"splits/sun397.json of the official code, of {_SUN_LISTS[0]} / {_SUN_LISTS[1]}"
    return assemble("sun397", inner, parts, splits, {"splits": rule})


def _read_sun397(path: Path, classes: Sequence[str]) -> ClassFolders:
    number = {name: index for index, name in enumerate(classes)}
    names = [line.strip("/") for line in read_lines(path)]
    folders = [name.rpartition("/")[0] for name in names]
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise DataError(f"{path} has classes that ClassName.txt has not: {shown(unknown)}.")
    labels = tuple(number[folder] for folder in folders)
    return ClassFolders(names=tuple(names), labels=labels, classes=tuple(classes))


def _fetch_sun397(root: Path) -> None:
    try:
        SUN397(root, download=True)
        if not any((root / name).is_file() for name in _SUN_LISTS):
            download_and_extract_archive(_SUN_PARTITIONS, str(root))
    except (RuntimeError, OSError) as error:
        raise DataError(f"sun397 could not be downloaded into {root}: {error}") from error


def _parts(name: str) -> list[str]:
    """Sort as folders of folders are sorted."""
    return name.split("/")


def _read_pair(root: Path, name: str, published: str) -> dict[str, ClassFolders]:
    if not (root / "train").is_dir():
        raise DataError(
            f"{name}: expected in {root}: train/CLASS/*.jpg and test/CLASS/*.jpg, or as published: "
            f"{published}."
        )
    train = read_part(root, "train")
    return {"trainval": train, "test": read_within(root, "test", train.classes)}


def _read_lists(root: Path, lists: Mapping[str, str]) -> dict[str, ClassFolders]:
    """Read lists of `CLASS/IMAGE` below `root/Images`, in the order of ImageFolder."""
    files = {part: sorted(read_lines(root / name), key=_parts) for part, name in lists.items()}
    classes = sorted({file.partition("/")[0] for own in files.values() for file in own})
    number = {name: index for index, name in enumerate(classes)}
    return {
        part: ClassFolders(
            names=tuple(f"Images/{file}" for file in own),
            labels=tuple(number[file.partition("/")[0]] for file in own),
            classes=tuple(classes),
        )
        for part, own in files.items()
    }


def _read_cub200(root: Path) -> dict[str, ClassFolders]:
    """Read `images.txt` (ID CLASS/IMAGE) and `train_test_split.txt` (ID 1-if-train)."""
    files = read_pairs(root / "images.txt")
    is_train = read_pairs(root / "train_test_split.txt")
    if files.keys() != is_train.keys():
        raise DataError(f"{root}: images.txt and train_test_split.txt are of different images.")
    if not set(is_train.values()) <= {"0", "1"}:
        raise DataError(f"{root / 'train_test_split.txt'}: expected 0 or 1 after the number.")
    classes = sorted({file.partition("/")[0] for file in files.values()})
    number = {name: index for index, name in enumerate(classes)}
    parts = {}
    for part, flag in {"trainval": "1", "test": "0"}.items():
        own = sorted((f for key, f in files.items() if is_train[key] == flag), key=_parts)
        parts[part] = ClassFolders(
            names=tuple(f"images/{file}" for file in own),
            labels=tuple(number[file.partition("/")[0]] for file in own),
            classes=tuple(classes),
        )
    return parts
