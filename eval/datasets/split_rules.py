"""Rules that split a dataset into training, validation and test images."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, random_split

from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.files import sha256
from cassle_zoo.data.listing import first_few

VALIDATION_NAMES = ("val", "validation", "valid", "dev")

HELD_OUT_RULE = (
    "of every class the tenth (rounded) of the training images with the smallest "
    "sha256('validation ' + key)"
)


def split_trainval(
    sizes: Mapping[str, int], published: int, val: int, seed: int
) -> tuple[dict[str, Tensor], str]:
    """Split the part `trainval` by :func:`split_randomly`; return all splits and a description.

    Args:
        sizes: Number of images in `trainval` and `test`.
        published: That of `trainval` in the published dataset.
        val: Number of images for validation then; the same fraction of another number.
        seed: Seed of the generator.

    Raises:
        DataError: If nothing is left for one of them.
    """
    count = sizes["trainval"]
    text = f"{published - val:,} / {val:,} of train by torch random_split, seed {seed}"
    if count != published:
        val = round(count * val / published)
        text += f" (of {count:,} images the same fraction)"
    splits = split_randomly(count, val, seed)
    return splits | {"test": consecutive(sizes)["test"]}, f"{text} / test"


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


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How a folder without splits of its own is split.

    Attributes:
        test: Fraction of the images of every class for testing.
        val: Fraction of the images of every class for validation.
        seed: Another seed draws other images.
    """

    test: Annotated[float, Range(0, 1, open_low=True)] = 0.2
    val: Annotated[float, Range(0, 1, open_low=True)] = 0.1
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "split.")
        if self.test + self.val >= 1:
            raise ConfigError(
                f"split.test {self.test:g} and split.val {self.val:g} leave nothing to train with."
            )


def split_by_class(
    labels: Sequence[int],
    keys: Sequence[str],
    groups: Sequence[int],
    classes: Sequence[str],
    config: SplitConfig,
) -> dict[str, Tensor]:
    """Split images into `train`, `val` and `test`, with the same fractions of every class.

    Groups stay together. They are ranked by a hash of the seed and their smallest key; in every
    class test, then val, takes the first groups that fit into its fraction (rounded, at least 1),
    or the smallest one if none does. A group of several classes counts for its most frequent one.

    Args:
        labels: Class numbers.
        keys: Identifies each image by its content.
        groups: A number for each image; images with the same number stay together.
        classes: Names of the classes.
        config: Fractions and seed.

    Returns:
        Ascending indices by split.

    Raises:
        DataError: If a class has fewer than three groups.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    by_class: dict[int, list[list[int]]] = {label: [] for label in range(len(classes))}
    ranks = {
        group: sha256(f"split {config.seed} {min(keys[i] for i in own)}")
        for group, own in members.items()
    }
    for group in sorted(members, key=lambda group: ranks[group]):
        counts = Counter(labels[i] for i in members[group])
        by_class[min(counts, key=lambda label: (-counts[label], label))].append(members[group])
    few = [f"{classes[label]} ({len(own)})" for label, own in by_class.items() if len(own) < 3]
    if few:
        raise DataError(
            f"{len(few)} of {len(classes)} classes have fewer than three different images, one "
            f"each to train with, to validate and to test (near-duplicates count once): "
            f"{first_few(few, 20)}. Add images, or leave a class out: begin the name of its folder "
            "with a dot, or remove its rows from the table."
        )
    found: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for own in by_class.values():
        rest, total = own, sum(map(len, own))
        for split, fraction in (("test", config.test), ("val", config.val)):
            taken = _take(rest, max(1, round(fraction * total)), keep=2 if split == "test" else 1)
            found[split] += [i for position in taken for i in rest[position]]
            rest = [group for position, group in enumerate(rest) if position not in taken]
        found["train"] += [i for group in rest for i in group]
    return {split: torch.tensor(sorted(rows)) for split, rows in found.items()}


def _take(groups: Sequence[Sequence[int]], quota: int, *, keep: int) -> list[int]:
    """Return the positions of the first groups that fit into a quota, leaving `keep` groups."""
    taken: list[int] = []
    for position, group in enumerate(groups):
        if len(group) <= quota and len(taken) < len(groups) - keep:
            taken.append(position)
            quota -= len(group)
    if not taken:
        taken.append(min(range(len(groups)), key=lambda position: len(groups[position])))
    return taken


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
