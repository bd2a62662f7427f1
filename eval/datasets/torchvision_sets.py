"""The paper's datasets that torchvision reads, with the paper's splits."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset
from torchvision import datasets

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.eval.base import EvalData, Images
from cassle_zoo.eval.datasets.files import classification, published_name, require_scipy
from cassle_zoo.eval.datasets.split_rules import consecutive, index_lists, split_trainval


class _STL10(datasets.STL10):  # type: ignore[misc]
    """STL10 without the unlabelled images, which may be missing and take long to check."""

    train_list = datasets.STL10.train_list[:2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Recipe:
    """How torchvision opens a dataset, and how the paper splits it.

    Attributes:
        reader: The class of torchvision.
        folder: Its folder in the root folder; it must exist before torchvision is called.
        contents: Files in this folder.
        parts: Arguments of the class for each part.
        sizes: Published number of images of each part.
        held_out: How many images of `trainval` are for validation, and the seed that they are drawn
            with; None if the parts are the splits, or lists give them.
        metric: The metric that is usually reported.
        fetch: Whether torchvision can still download it.
    """

    reader: Any
    folder: str
    contents: tuple[str, ...]
    parts: Mapping[str, Mapping[str, Any]]
    sizes: tuple[int, ...]
    held_out: tuple[int, int] | None = None
    metric: str = "top1"
    fetch: bool = True


_TRAINVAL_TEST = {"trainval": {"split": "train"}, "test": {"split": "test"}}
_OWN = {name: {"split": name} for name in ("train", "val", "test")}
_CIFAR = {"trainval": {"train": True}, "test": {"train": False}}
_LISTS = "splits/caltech101.json of the official code"

_RECIPES: Mapping[str, _Recipe] = MappingProxyType(
    {
        "cifar10": _Recipe(
            reader=datasets.CIFAR10,
            folder="cifar-10-batches-py",
            contents=("data_batch_1",),
            parts=_CIFAR,
            sizes=(50000, 10000),
            held_out=(5000, 43),
        ),
        "cifar100": _Recipe(
            reader=datasets.CIFAR100,
            folder="cifar-100-python",
            contents=("train",),
            parts=_CIFAR,
            sizes=(50000, 10000),
            held_out=(5000, 44),
        ),
        "food101": _Recipe(
            reader=datasets.Food101,
            folder="food-101",
            contents=("meta/train.json", "images/CLASS/*.jpg"),
            parts=_TRAINVAL_TEST,
            sizes=(75750, 25250),
            held_out=(7575, 42),
        ),
        "pets": _Recipe(
            reader=datasets.OxfordIIITPet,
            folder="oxford-iiit-pet",
            contents=("images/*.jpg", "annotations/trainval.txt"),
            parts={"trainval": {"split": "trainval"}, "test": {"split": "test"}},
            sizes=(3680, 3669),
            held_out=(740, 49),
            metric="mean_per_class",
        ),
        "flowers": _Recipe(
            reader=datasets.Flowers102,
            folder="flowers-102",
            contents=("jpg/*.jpg", "setid.mat"),
            parts=_OWN,
            sizes=(1020, 1020, 6149),
            metric="mean_per_class",
        ),
        "caltech101": _Recipe(
            reader=datasets.Caltech101,
            folder="caltech101/101_ObjectCategories",
            contents=("CLASS",),
            parts={"all": {}},
            sizes=(8677,),
            metric="mean_per_class",
        ),
        "cars": _Recipe(
            reader=datasets.StanfordCars,
            folder="stanford_cars",
            contents=(
                "devkit/cars_train_annos.mat",
                "devkit/cars_meta.mat",
                "cars_test_annos_withlabels.mat",
                "cars_train/*.jpg",
                "cars_test/*.jpg",
            ),
            parts=_TRAINVAL_TEST,
            sizes=(8144, 8041),
            held_out=(1144, 51),
            fetch=False,
        ),
        "aircraft": _Recipe(
            reader=datasets.FGVCAircraft,
            folder="fgvc-aircraft-2013b",
            contents=("data/images_variant_train.txt", "data/images/*.jpg"),
            parts=_OWN,
            sizes=(3334, 3333, 3333),
            metric="mean_per_class",
        ),
        "dtd": _Recipe(
            reader=datasets.DTD,
            folder="dtd/dtd",
            contents=("labels/train1.txt", "images/CLASS/*.jpg"),
            parts=_OWN,
            sizes=(1880, 1880, 1880),
        ),
        "stl10": _Recipe(
            reader=_STL10,
            folder="stl10_binary",
            contents=("train_X.bin", "class_names.txt"),
            parts=_TRAINVAL_TEST,
            sizes=(5000, 8000),
            held_out=(500, 50),
        ),
    }
)

TORCHVISION_SETS: tuple[str, ...] = tuple(_RECIPES)


def open_torchvision(name: str, root: Path, download: bool = False) -> EvalData:
    """Open one of `TORCHVISION_SETS`.

    Args:
        name: Name of the dataset.
        root: The folder that holds the dataset's folder, or will after the download.
        download: Download the dataset if it is not there.

    Raises:
        DataError: If files are missing or damaged.
        ConfigError: If it cannot be downloaded.
        MissingDependencyError: If scipy is needed to read the labels.
    """
    recipe = _RECIPES[name]
    contents = ", ".join(f"{recipe.folder}/{file}" for file in recipe.contents)
    where = f"{name}: expected in {root}: {contents}."
    if download and not recipe.fetch:
        raise ConfigError(f"{name} is not offered for download any more. {where}")
    if ".mat" in contents:
        require_scipy(name)
    if not download and not (root / recipe.folder).is_dir():
        hint = " --download fetches it." if recipe.fetch else ""
        raise DataError(f"{name}: {root / recipe.folder} is missing. {where}{hint}")
    # On damaged files the readers raise errors of pickle, tarfile, scipy, struct, ...
    try:
        parts = {
            part: recipe.reader(root, download=download, **arguments)
            for part, arguments in recipe.parts.items()
        }
        return _assemble(name, root, recipe, parts)
    except Exception as error:
        raise DataError(f"{where} But: {error}") from error


def _assemble(name: str, root: Path, recipe: _Recipe, parts: dict[str, Any]) -> EvalData:
    samples = {part: _samples(data) for part, data in parts.items()}
    sizes = {part: len(labels) for part, (_, labels) in samples.items()}
    shown_name, notes = published_name(name, sizes, dict(zip(sizes, recipe.sizes, strict=True)))
    splits, notes["splits"] = _splits(name, recipe, sizes)
    images: Images
    digest = hashlib.sha256()
    if recipe.reader in (datasets.CIFAR10, datasets.CIFAR100, _STL10):
        images = ConcatDataset(parts.values())
        for data in parts.values():
            digest.update(np.ascontiguousarray(data.data).tobytes())
    else:
        files = [file.relative_to(root).as_posix() for own, _ in samples.values() for file in own]
        images = ImageFiles(root, files)
    return classification(
        name=shown_name,
        images=images,
        digest=digest,
        labels=[label for _, own in samples.values() for label in own],
        splits=splits,
        classes=_classes(name, next(iter(parts.values()))),
        notes=notes,
        metric=recipe.metric,
    )


def _classes(name: str, data: Any) -> tuple[str, ...]:
    if name == "flowers" and not hasattr(data, "classes"):  # so in torchvision 0.21
        return tuple(map(str, range(1, 103)))
    return tuple(data.categories if name == "caltech101" else data.classes)


def _splits(name: str, recipe: _Recipe, sizes: dict[str, int]) -> tuple[dict[str, Tensor], str]:
    if name == "caltech101":
        lists = index_lists(name)
        expected = sum(map(len, lists.values()))
        if sizes["all"] != expected:
            raise DataError(
                f"the lists are of {expected:,} images, but there are {sizes['all']:,}; are "
                "there hidden files in the class folders?"
            )
        return {split: torch.tensor(lists[split]) for split in lists}, _LISTS
    if recipe.held_out is not None:
        return split_trainval(sizes, recipe.sizes[0], *recipe.held_out)
    return consecutive(sizes), "the dataset's own train / val / test"


def _samples(data: Any) -> tuple[list[Path], list[int]]:
    """Return the files, if there are any, and labels of a torchvision dataset."""
    match data:
        case datasets.CIFAR10():
            return [], list(data.targets)
        case datasets.STL10():
            return [], data.labels.astype(np.int64).tolist()
        case datasets.Caltech101():
            folder = Path(data.root) / "101_ObjectCategories"
            pairs = zip(data.y, data.index, strict=True)
            files = [folder / data.categories[y] / f"image_{index:04d}.jpg" for y, index in pairs]
            return files, list(data.y)
        case datasets.StanfordCars():
            return [Path(path) for path, _ in data._samples], [int(y) for _, y in data._samples]
        case datasets.OxfordIIITPet():
            return list(data._images), list(data._labels)
    return [Path(file) for file in data._image_files], list(data._labels)
