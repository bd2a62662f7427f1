"""Datasets that are folders of classes: any of the user's, and the paper's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets.files import FileImages, classification, published_name, shown
from cassle_zoo.eval.datasets.split_rules import (
    HELD_OUT_RULE,
    consecutive,
    hold_out,
    imagenet100_classes,
    split_randomly,
)

VALIDATION_NAMES = ("val", "validation", "valid", "dev")

_IMAGENET100_SEED = 42


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """The images of folders of classes, sorted by folder and name.

    Attributes:
        names: Files, relative to the root of the dataset.
        labels: Their class numbers.
        classes: Names of the folders.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def read_part(root: Path, part: str, classes: Sequence[str] | None = None) -> ClassFolders:
    """List `root/part/CLASS/**/IMAGE` in the order of torchvision's ImageFolder.

    Args:
        root: Of the dataset.
        part: Name of a folder.
        classes: Folders to use, in the order of their numbers; by default all, sorted.

    Raises:
        DataError: If there are no such folders, or one has no images.
    """
    folder = root / part
    try:
        if classes is None:
            classes, _ = find_classes(folder)
        missing = [name for name in classes if not (folder / name).is_dir()]
        if missing:
            raise DataError(f"{folder} has no folders of the classes {shown(missing)}.")
        number = {name: index for index, name in enumerate(classes)}
        samples = make_dataset(folder, number, IMG_EXTENSIONS)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} must hold a folder of images per class: {error}") from error
    return ClassFolders(
        names=tuple(Path(path).relative_to(root).as_posix() for path, _ in samples),
        labels=tuple(label for _, label in samples),
        classes=tuple(classes),
    )


def open_folder(root: Path, download: bool = False) -> EvalData:
    """Open any images laid out as `train/CLASS/IMAGE`, and so `test`.

    Validation images may lie in `val`, `validation`, `valid` or `dev`.

    Raises:
        DataError: If folders are missing, or hold classes that are not in `train`.
    """
    refuse_download("a folder", download)
    train = read_part(root, "train")
    held_back = {"test": read_within(root, "test", train.classes)}
    validation = [name for name in VALIDATION_NAMES if (root / name).is_dir()]
    if len(validation) > 1:
        raise DataError(f"{root} has {' and '.join(validation)}; keep one of them.")
    if validation:
        held_back["val"] = read_within(root, validation[0], train.classes)
    parts = {"train": train, **held_back}
    splits = consecutive({part: len(found.names) for part, found in parts.items()})
    rule = "the folders train / val / test"
    if "val" not in parts:
        keys = [name.removeprefix("train/") for name in train.names]
        splits |= hold_out(train.labels, keys)
        rule = f"the folders train and test; for validation {HELD_OUT_RULE}, key: CLASS/IMAGE"
    return assemble(f"folder:{root.resolve().name}", root, parts, splits, {"splits": rule})


def open_imagenet100(root: Path, download: bool = False) -> EvalData:
    """Open ImageNet's folders `train/WNID` and `val/WNID` and take the 100 classes of the paper.

    Raises:
        DataError: If folders are missing.
    """
    refuse_download("imagenet100", download)
    classes = imagenet100_classes()
    parts = {
        "trainval": read_part(root, "train", classes),
        "test": read_part(root, "val", classes),
    }
    sizes = {part: len(found.names) for part, found in parts.items()}
    name, notes = published_name("imagenet100", sizes, {"test": 5000})
    count = sizes["trainval"]
    splits = split_randomly(count, count // 10, _IMAGENET100_SEED)
    splits["test"] = consecutive(sizes)["test"]
    notes["splits"] = f"90 % / 10 % of train by torch random_split, seed {_IMAGENET100_SEED} / val"
    return assemble(name, root, parts, splits, notes)


def open_pool(name: str, part: str, root: Path, download: bool = False) -> EvalData:
    """Open a dataset for few-shot episodes: all images of one folder are the test split.

    Args:
        name: Of the dataset.
        part: Its folder of classes.
        root: Where that folder is.
        download: Must be False.

    Raises:
        DataError: If the folder is missing.
    """
    refuse_download(name, download)
    parts = {"test": read_part(root, part)}
    splits = {"train": torch.arange(0), "val": torch.arange(0)}
    splits |= consecutive({"test": len(parts["test"].names)})
    return assemble(name, root, parts, splits, {"splits": f"all of the folder {part}, few-shot"})


def refuse_download(name: str, download: bool) -> None:
    """Raise a `ConfigError` if asked to download what cannot be downloaded."""
    if download:
        raise ConfigError(f"{name} cannot be downloaded by this library; put it there yourself.")


def assemble(
    name: str,
    root: Path,
    parts: Mapping[str, ClassFolders],
    splits: Mapping[str, torch.Tensor],
    notes: Mapping[str, str],
) -> EvalData:
    """Put parts that lie one after the other together; the first has all classes."""
    return classification(
        name=name,
        images=FileImages(root, [file for found in parts.values() for file in found.names]),
        labels=[label for found in parts.values() for label in found.labels],
        splits=splits,
        classes=next(iter(parts.values())).classes,
        notes=notes,
    )


def read_within(root: Path, part: str, classes: Sequence[str]) -> ClassFolders:
    """Read a part whose classes are all among `classes`; it may lack some."""
    found = read_part(root, part)
    unknown = sorted(set(found.classes) - set(classes))
    if unknown:
        raise DataError(f"{root / part} has classes that train has not: {shown(unknown)}.")
    labels = tuple(classes.index(found.classes[label]) for label in found.labels)
    return ClassFolders(names=found.names, labels=labels, classes=tuple(classes))
