"""emoji64 and its five tasks: the images, labels and splits of each."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.files import sha256
from cassle_zoo.data.emoji64 import (
    EMOJI64_SHA256,
    METADATA_FILE,
    SKIN_TONES,
    VENDORS,
    Emoji64,
    Record,
)
from cassle_zoo.eval.base import EvalData, Task

CLASSIFICATION_TASKS: tuple[str, ...] = ("subcategory", "skin_tone", "vendor")
RETRIEVAL_TASKS: tuple[str, ...] = ("flags", "identity")
VALIDATION_RULE = "int(sha256('validation ' + base)) % 5 == 0"
MIN_TRAIN_BASES = 10


def open_data(root: Path) -> EvalData:
    """Open `emoji64.tar` or its folder.

    Raises:
        DataError: See `Emoji64.open`.
    """
    try:
        data = Emoji64.open(root)
    except DataError as error:
        if not root.exists() or root.suffix == ".tar" or (root / METADATA_FILE).exists():
            raise
        raise DataError(
            f"{error} Images of your own are measured with --dataset folder."
        ) from error
    return EvalData(
        name="emoji64" if data.sha256 == EMOJI64_SHA256 else "emoji64 (modified)",
        sha256=data.sha256,
        images=data,
        tasks=(
            *(classification(data.records, name) for name in CLASSIFICATION_TASKS),
            *(retrieval(data.records, name) for name in RETRIEVAL_TASKS),
        ),
        notes={"validation": f"training images with {VALIDATION_RULE}"},
        names=tuple(record.file_name for record in data.records),
        root=root if root.is_dir() else None,
        captions=tuple(record.name.lower() for record in data.records),
    )


def classification(records: Sequence[Record], name: str) -> Task:
    """Return a classification task; images of no class have the target -1 and are in no split.

    Args:
        records: The dataset's records.
        name: `subcategory` (those with 10 or more training bases), `skin_tone` (the five) or
            `vendor` (the three).

    Raises:
        DataError: If there are too few images for the task.
    """
    classes = _classes(records, name)
    number = {own: index for index, own in enumerate(classes)}
    targets = [number.get(getattr(record, name), -1) for record in records]
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for index, record in enumerate(records):
        if targets[index] >= 0:
            held_out = record.split == "train" and _is_validation(record.base)
            splits["val" if held_out else record.split].append(index)
    for split, indices in splits.items():
        if not indices:
            raise DataError(f"emoji64, task {name}: no images to {split} on.")
    return Task(
        name=name,
        kind="classification",
        targets=torch.tensor(targets),
        splits={split: torch.tensor(indices) for split, indices in splits.items()},
        classes=classes,
    )


def retrieval(records: Sequence[Record], name: str) -> Task:
    """Return a retrieval task, whose targets stand for the code points.

    Args:
        records: The dataset's records.
        name: `flags` (country flags: query twemoji, gallery noto) or `identity` (test emojis
            without skin tone that both drew: query twemoji, gallery all of fluent3d).

    Raises:
        DataError: If there are no images for the task.
    """
    flags = name == "flags"
    part = {i: r for i, r in enumerate(records) if not flags or r.subcategory == "country-flag"}
    gallery = [i for i, r in part.items() if r.vendor == ("noto" if flags else "fluent3d")]
    drawn = {records[index].unified for index in gallery}
    queries = [
        index
        for index, r in part.items()
        if r.vendor == "twemoji"
        and r.unified in drawn
        and (flags or (r.split == "test" and r.skin_tone == "none"))
    ]
    if not queries:
        raise DataError(f"emoji64, task {name}: no images to look up.")
    codes = tuple(sorted({record.unified for record in records}))
    number = {code: index for index, code in enumerate(codes)}
    return Task(
        name=name,
        kind="retrieval",
        targets=torch.tensor([number[record.unified] for record in records]),
        splits={"query": torch.tensor(queries), "gallery": torch.tensor(gallery)},
        classes=codes,
        metric="recall@1",
    )


def _classes(records: Sequence[Record], name: str) -> tuple[str, ...]:
    if name == "vendor":
        return VENDORS
    if name == "skin_tone":
        return SKIN_TONES
    bases: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.split == "train":
            bases[record.subcategory].add(record.base)
    return tuple(sorted(name for name, own in bases.items() if len(own) >= MIN_TRAIN_BASES))


def _is_validation(base: str) -> bool:
    return int(sha256(f"validation {base}"), 16) % 5 == 0
