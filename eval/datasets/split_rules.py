"""Rules that split a dataset into training, validation and test images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, random_split

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.files import sha256

HELD_OUT_RULE = (
    "of every class the tenth (rounded) of the training images with the smallest "
    "sha256('validation ' + key)"
)


@dataclass(frozen=True, kw_only=True)
class RandomSplit:
    """`torch.utils.data.random_split` with `torch.Generator().manual_seed(seed)`.

    Attributes:
        train: Number of training images of the published dataset.
        val: Number of validation images; the same fraction of a dataset of another size.
        seed: Seed of the generator.
    """

    train: int
    val: int
    seed: int

    def apply(self, count: int) -> dict[str, Tensor]:
        """Return the indices of `train` and `val` among `count` images.

        Raises:
            DataError: If nothing is left for one of them.
        """
        val = self.val
        if count != self.train + self.val:
            val = round(count * self.val / (self.train + self.val))
        return split_randomly(count, val, self.seed)

    def split(self, sizes: Mapping[str, int]) -> tuple[dict[str, Tensor], str]:
        """Return the splits of a dataset with the parts `trainval` and `test`, and a description.

        Args:
            sizes: Number of images in each part.

        Raises:
            DataError: See `apply`.
        """
        count = sizes["trainval"]
        splits = {**self.apply(count), "test": consecutive(sizes)["test"]}
        text = f"{self.train:,} / {self.val:,} of train by torch random_split, seed {self.seed}"
        if count != self.train + self.val:
            text += f" (of {count:,} images the same fraction)"
        return splits, f"{text} / test"


def split_randomly(count: int, val: int, seed: int) -> dict[str, Tensor]:
    """Return the indices of `train` and `val` as `random_split([count - val, val])` draws them.

    Raises:
        DataError: If nothing is left for one of them.
    """
    if not 0 < val < count:
        raise DataError(f"{count} training images are too few to hold some out for validation.")
    generator = torch.Generator().manual_seed(seed)
    everything = TensorDataset(torch.arange(count))
    train, held_out = random_split(everything, [count - val, val], generator=generator)
    return {"train": torch.tensor(train.indices), "val": torch.tensor(held_out.indices)}


@cache
def index_lists(name: str) -> Mapping[str, tuple[int, ...]]:
    """Return the official code's index lists of a dataset, by split.

    Args:
        name: `caltech101`, `cub200` or `sun397`.
    """
    text = (files(__package__) / "splits" / f"{name}.json").read_text()
    return {split: tuple(indices) for split, indices in json.loads(text).items()}


@cache
def imagenet100_classes() -> tuple[str, ...]:
    """Return the 100 WordNet ids of ImageNet-100; the label is the position."""
    text = (files(__package__) / "splits" / "imagenet100.txt").read_text()
    return tuple(text.split())


def hold_out(labels: Sequence[int], keys: Sequence[str]) -> dict[str, Tensor]:
    """Split training images by `HELD_OUT_RULE`: independent of their order and of any seed.

    Args:
        labels: Their classes.
        keys: Identifies each of them: a file name without the user's folders, or a hash.

    Returns:
        Indices of `train` and `val`.

    Raises:
        DataError: If every class is too small.
    """
    hashes = [sha256(f"validation {key}") for key in keys]
    by_class: dict[int, list[int]] = {}
    for index in sorted(range(len(labels)), key=lambda index: hashes[index]):
        by_class.setdefault(labels[index], []).append(index)
    held_out = {index for own in by_class.values() for index in own[: (len(own) + 5) // 10]}
    if not held_out:
        raise DataError(
            "every class has fewer than five training images, too few to hold out a tenth for "
            "validation; give validation images of their own."
        )
    return {
        "train": torch.tensor([i for i in range(len(labels)) if i not in held_out]),
        "val": torch.tensor(sorted(held_out)),
    }


def consecutive(sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the indices of each part, in a dataset that concatenates them."""
    ends = torch.tensor(list(sizes.values())).cumsum(0).tolist()
    parts = zip(sizes.items(), ends, strict=True)
    return {name: torch.arange(end - size, end) for (name, size), end in parts}
