"""emoji64 with its five tasks."""

from pathlib import Path

import torch

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.data.emoji64 import EMOJI64_SHA256, HOW_TO_GET, Emoji64, Emoji64Train
from cassle_zoo.eval.base import EvalData, Task
from cassle_zoo.eval.datasets import emoji64_tasks as tasks


def open_data(root: Path, download: bool = False) -> EvalData:
    """Open `emoji64.tar` or its folder.

    Raises:
        DataError: See `Emoji64.open`.
        ConfigError: If asked to download.
    """
    if download:
        raise ConfigError(f"emoji64 cannot be downloaded. {HOW_TO_GET}")
    data = Emoji64.open(root)
    classifying = [_classification(data, name) for name in tasks.CLASSIFICATION_TASKS]
    finding = [_retrieval(data, name) for name in tasks.RETRIEVAL_TASKS]
    return EvalData(
        name="emoji64" if data.sha256 == EMOJI64_SHA256 else "emoji64 (modified)",
        sha256=data.sha256,
        images=Emoji64Train(data),
        tasks=(*classifying, *finding),
        notes={"validation": f"training images with {tasks.VALIDATION_RULE}"},
        names=tuple(record.file_name for record in data.records),
        root=root if root.is_dir() else None,
        captions=tuple(record.name.lower() for record in data.records),
    )


def _classification(data: Emoji64, name: str) -> Task:
    part = tasks.classification(data.records, name)
    return Task(
        name=name,
        kind="classification",
        targets=torch.tensor(part.labels),
        splits={key: torch.tensor(getattr(part, key)) for key in ("train", "val", "test")},
        classes=part.classes,
    )


def _retrieval(data: Emoji64, name: str) -> Task:
    part = tasks.retrieval(data.records, name)
    return Task(
        name=name,
        kind="retrieval",
        targets=torch.tensor(part.labels),
        splits={"query": torch.tensor(part.queries), "gallery": torch.tensor(part.gallery)},
        classes=tuple(sorted({record.unified for record in data.records})),
        metric="recall@1",
    )
