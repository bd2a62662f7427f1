"""The five tasks of emoji64: which images take part, and as what."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.emoji64_records import SKIN_TONES, VENDORS, Record

CLASSIFICATION_TASKS: tuple[str, ...] = ("subcategory", "skin_tone", "vendor")
RETRIEVAL_TASKS: tuple[str, ...] = ("flags", "identity")
TASKS = MappingProxyType(
    {
        "subcategory": "subcategories with 10 or more training bases",
        "skin_tone": "the five skin tones",
        "vendor": "the three vendors",
        "flags": "country flags: query twemoji, gallery noto",
        "identity": "test emojis without skin tone that both drew: query twemoji, "
        "gallery all fluent3d",
    }
)
"""The tasks, with what their labels are."""

VALIDATION_RULE = "int(sha256('validation ' + base)) % 5 == 0"
MIN_TRAIN_BASES = 10


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Which images to fit, validate and test on.

    Attributes:
        classes: Names of the labels.
        train: Indices of records.
        val: Indices of records, taken from the training split by base.
        test: Indices of records.
        labels: Label of each record; -1 if it takes no part.
    """

    classes: tuple[str, ...]
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Which images to look up among which.

    Attributes:
        queries: Indices of records.
        gallery: Indices of records.
        labels: Of each record, a number that stands for the code points.
    """

    queries: tuple[int, ...]
    gallery: tuple[int, ...]
    labels: tuple[int, ...]


def classification(records: Sequence[Record], task: str) -> Classification:
    """Select the images of a classification task.

    Args:
        records: The dataset's records.
        task: One of :data:`CLASSIFICATION_TASKS`.

    Raises:
        DataError: If there are too few images for the task.
    """
    classes = _classes(records, task)
    number = {name: index for index, name in enumerate(classes)}
    labels = tuple(number.get(getattr(record, task), -1) for record in records)
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for index, record in enumerate(records):
        if labels[index] >= 0:
            held_out = record.split == "train" and _is_validation(record.base)
            parts["val" if held_out else record.split].append(index)
    for part, indices in parts.items():
        if not indices:
            raise DataError(f"emoji64, task {task}: no images to {part} on.")
    return Classification(
        classes=classes,
        train=tuple(parts["train"]),
        val=tuple(parts["val"]),
        test=tuple(parts["test"]),
        labels=labels,
    )


def retrieval(records: Sequence[Record], task: str) -> Retrieval:
    """Select the images of a retrieval task.

    Args:
        records: The dataset's records.
        task: One of :data:`RETRIEVAL_TASKS`.

    Raises:
        DataError: If there are no images for the task.
    """
    if task == "flags":
        part = {index: r for index, r in enumerate(records) if r.subcategory == "country-flag"}
        gallery_vendor = "noto"
        queries = [index for index, r in part.items() if r.vendor == "twemoji"]
    else:
        part = dict(enumerate(records))
        gallery_vendor = "fluent3d"
        queries = [
            index
            for index, r in part.items()
            if r.vendor == "twemoji" and r.split == "test" and r.skin_tone == "none"
        ]
    gallery = [index for index, r in part.items() if r.vendor == gallery_vendor]
    drawn = {records[index].unified for index in gallery}
    queries = [index for index in queries if records[index].unified in drawn]
    if not queries:
        raise DataError(f"emoji64, task {task}: no images to look up.")
    codes = {code: number for number, code in enumerate(sorted({r.unified for r in records}))}
    return Retrieval(
        queries=tuple(queries),
        gallery=tuple(gallery),
        labels=tuple(codes[record.unified] for record in records),
    )


def _classes(records: Sequence[Record], task: str) -> tuple[str, ...]:
    if task == "vendor":
        return VENDORS
    if task == "skin_tone":
        return SKIN_TONES
    bases: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.split == "train":
            bases[record.subcategory].add(record.base)
    return tuple(sorted(name for name, own in bases.items() if len(own) >= MIN_TRAIN_BASES))


def _is_validation(base: str) -> bool:
    return int(hashlib.sha256(f"validation {base}".encode()).hexdigest(), 16) % 5 == 0
