"""The paper's datasets with a folder per class, and their lists."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torchvision.datasets import SUN397
from torchvision.datasets.utils import download_and_extract_archive

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.listing import ClassFolders, first_few, list_classes
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets.files import (
    classification,
    downloading,
    published_name,
    read_lines,
    read_pairs,
)
from cassle_zoo.eval.datasets.split_rules import (
    consecutive,
    imagenet100_classes,
    index_lists,
    split_randomly,
    split_trainval,
)

_IMAGENET100_SEED = 42
_MIT67_SIZES = {"trainval": 5360, "test": 1340}
_CUB200_SIZES = (5990, 5994)
_SUN_LISTS = ("Training_01.txt", "Testing_01.txt")
_SUN_PARTITIONS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"


def open_imagenet100(root: Path) -> EvalData:
    """Open the paper's 100 classes of ImageNet, laid out as `train/WNID` and `val/WNID`.

    Raises:
        DataError: If folders are missing.
    """
    classes = imagenet100_classes()
    parts = {
        "trainval": list_classes(root, "train", classes),
        "test": list_classes(root, "val", classes),
    }
    sizes = part_sizes(parts)
    name, notes = published_name("imagenet100", sizes, {"test": 5000})
    count = sizes["trainval"]
    splits = split_randomly(count, count // 10, _IMAGENET100_SEED)
    splits["test"] = consecutive(sizes)["test"]
    notes["splits"] = f"90 % / 10 % of train by torch random_split, seed {_IMAGENET100_SEED} / val"
    return assemble(name, root, parts, splits, notes)


def open_pool(name: str, part: str, root: Path) -> EvalData:
    """Open a dataset for few-shot episodes: all images of one folder are the test split.

    Args:
        name: Name of the dataset.
        part: The folder with a folder per class.
        root: The folder that holds `part`.

    Raises:
        DataError: If the folder is missing.
    """
    parts = {"test": list_classes(root, part)}
    splits = {"train": torch.arange(0), "val": torch.arange(0), **consecutive(part_sizes(parts))}
    return assemble(name, root, parts, splits, {"splits": f"all of the folder {part}, few-shot"})


def open_mit67(root: Path) -> EvalData:
    """Open MIT Indoor-67 as folders `train` and `test`, or with the published lists.

    Raises:
        DataError: If files are missing.
    """
    if (root / "TrainImages.txt").is_file():
        lists = {"trainval": "TrainImages.txt", "test": "TestImages.txt"}
        parts = _of_lists("Images", {part: read_lines(root / own) for part, own in lists.items()})
    else:
        layout = "Images/CLASS/*.jpg, TrainImages.txt, TestImages.txt"
        parts = _train_and_test(root, "mit67", layout)
    sizes = part_sizes(parts)
    name, notes = published_name("mit67", sizes, _MIT67_SIZES)
    splits, notes["splits"] = split_trainval(sizes, _MIT67_SIZES["trainval"], val=670, seed=51)
    return assemble(name, root, parts, splits, notes)


def open_cub200(root: Path) -> EvalData:
    """Open CUB-200-2011 as folders `train` and `test`, or as published.

    Raises:
        DataError: If files are missing, or the official index lists do not fit.
    """
    if (root / "train_test_split.txt").is_file():
        parts = _of_lists("images", _read_cub200(root))
    else:
        layout = "images/CLASS/*.jpg, images.txt, train_test_split.txt (CUB_200_2011)"
        parts = _train_and_test(root, "cub200", layout)
    sizes = part_sizes(parts)
    if sizes["trainval"] not in _CUB200_SIZES:
        raise DataError(
            f"{root}: {sizes['trainval']:,} training images; the official index lists are for "
            f"{_CUB200_SIZES[0]:,}, and are also used for the {_CUB200_SIZES[1]:,} of CUB_200_2011."
        )
    val = torch.tensor(index_lists("cub200")["val"])
    rest = torch.ones(sizes["trainval"], dtype=torch.bool)
    rest[val] = False
    splits = {"train": rest.nonzero().flatten(), "val": val, "test": consecutive(sizes)["test"]}
    rule = "splits/cub200.json of the official code: its 1,000 for validation, train is the rest"
    return assemble("cub200", root, parts, splits, {"splits": rule})


def open_sun397(root: Path, download: bool = False) -> EvalData:
    """Open SUN397 with its first partition, in the order of its lists.

    Raises:
        DataError: If files are missing, or the official index lists do not fit.
    """
    if download:
        with downloading("sun397", root):
            SUN397(root, download=True)
            if not any((root / name).is_file() for name in _SUN_LISTS):
                download_and_extract_archive(_SUN_PARTITIONS, str(root))
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
    splits["test"] = consecutive(part_sizes(parts))["test"]
    rule = f"splits/sun397.json of the official code, of {_SUN_LISTS[0]} / {_SUN_LISTS[1]}"
    return assemble("sun397", inner, parts, splits, {"splits": rule})


def list_within(
    root: Path,
    part: str,
    classes: Sequence[str],
    *,
    on_unread: Callable[[str], None] | None = None,
) -> ClassFolders:
    """List a part, as `list_classes` does, with some of `classes`.

    Raises:
        DataError: If the part has another class, or cannot be listed.
    """
    found = list_classes(root, part, on_unread=on_unread)
    unknown = sorted(set(found.classes) - set(classes))
    if unknown:
        raise DataError(f"{root / part} has classes that are not in train: {first_few(unknown)}.")
    return ClassFolders.of(found.names, [found.classes[i] for i in found.labels], classes)


def _train_and_test(root: Path, name: str, published: str) -> dict[str, ClassFolders]:
    if not (root / "train").is_dir():
        raise DataError(
            f"{name}: expected in {root}: train/CLASS/*.jpg and test/CLASS/*.jpg, or as published: "
            f"{published}."
        )
    train = list_classes(root, "train")
    return {"trainval": train, "test": list_within(root, "test", train.classes)}


def _of_lists(folder: str, lists: Mapping[str, Sequence[str]]) -> dict[str, ClassFolders]:
    """Return the parts given by lists of `CLASS/IMAGE` below `folder`, sorted as folders are."""
    classes = sorted({file.partition("/")[0] for own in lists.values() for file in own})
    parts = {}
    for part, files in lists.items():
        own = sorted(files, key=lambda name: name.split("/"))
        names, of_class = [f"{folder}/{file}" for file in own], [f.partition("/")[0] for f in own]
        parts[part] = ClassFolders.of(names, of_class, classes)
    return parts


def _read_cub200(root: Path) -> dict[str, list[str]]:
    """Read `images.txt` (ID CLASS/IMAGE) and `train_test_split.txt` (ID 1-if-train)."""
    files = read_pairs(root / "images.txt")
    is_train = read_pairs(root / "train_test_split.txt")
    if files.keys() != is_train.keys():
        raise DataError(f"{root}: images.txt and train_test_split.txt are of different images.")
    if not set(is_train.values()) <= {"0", "1"}:
        raise DataError(f"{root / 'train_test_split.txt'}: expected 0 or 1 after the number.")
    flags = {"trainval": "1", "test": "0"}
    return {
        part: [file for key, file in files.items() if is_train[key] == flag]
        for part, flag in flags.items()
    }


def _read_sun397(path: Path, classes: Sequence[str]) -> ClassFolders:
    names = [line.strip("/") for line in read_lines(path)]
    folders = [name.rpartition("/")[0] for name in names]
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise DataError(f"{path} has classes that are not in ClassName.txt: {first_few(unknown)}.")
    return ClassFolders.of(names, folders, classes)


def part_sizes(parts: Mapping[str, ClassFolders]) -> dict[str, int]:
    """Return the number of images in each part."""
    return {part: len(found.names) for part, found in parts.items()}


def assemble(
    name: str,
    root: Path,
    parts: Mapping[str, ClassFolders],
    splits: Mapping[str, torch.Tensor],
    notes: Mapping[str, str],
    contents: Sequence[str] = (),
) -> EvalData:
    """Concatenate the parts; the first one has all classes. See `classification`."""
    return classification(
        name=name,
        images=files_of(root, parts),
        labels=[label for found in parts.values() for label in found.labels],
        splits=splits,
        classes=next(iter(parts.values())).classes,
        notes=notes,
        contents=contents,
    )


def files_of(root: Path, parts: Mapping[str, ClassFolders]) -> ImageFiles:
    """Return the images of all parts, one part after the other."""
    return ImageFiles(root, [file for found in parts.values() for file in found.names])
