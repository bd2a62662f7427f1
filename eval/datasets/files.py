"""Datasets whose images are files: reading, checking and identifying them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import open_image
from cassle_zoo.eval.base import EvalData, Task
from cassle_zoo.store.folder import file_sha256

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; what lies outside of the image is black."""

_SHOWN = 5
_READERS = 8  # threads: disks answer several requests faster than one by one


class FileImages:
    """Images by file name. Picklable; opens files only while it reads them."""

    def __init__(self, root: Path, names: Sequence[str], boxes: Sequence[Box] = ()) -> None:
        """Keep the names, relative to `root`, and if given the part of each that is seen."""
        self.root = root
        self.names = tuple(names)
        self.boxes = tuple(boxes)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image (RGB, upright, on white) and its index."""
        image = open_image(self.root / self.names[index])
        return (image.crop(self.boxes[index]) if self.boxes else image), index


def fingerprint(images: FileImages, targets: Tensor, splits: Mapping[str, Tensor]) -> str:
    """Identify a dataset, which reads every file once.

    Returns:
        A hash of the names and contents of the files, in order, and of boxes, targets and splits.

    Raises:
        DataError: If files are missing or cannot be read.
    """
    missing = [name for name in images.names if not (images.root / name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images are not in {images.root}, the first is "
            f"{missing[0]}. Was the archive unpacked completely?"
        )
    digest = hashlib.sha256()
    hashes = content_hashes([images.root / name for name in images.names])
    for name, content in zip(images.names, hashes, strict=True):
        digest.update(f"{name} {content}\n".encode())
    digest.update(repr(images.boxes).encode())
    update_with_labels(digest, targets, splits)
    return digest.hexdigest()


def content_hashes(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the sha256 of each file's content, in order.

    Raises:
        DataError: If a file cannot be read.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            yield from pool.map(file_sha256, paths)
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}.") from error


def update_with_labels(
    digest: "hashlib._Hash", targets: Tensor, splits: Mapping[str, Tensor]
) -> None:
    """Add targets and splits to the hash of a dataset."""
    for name, values in {"targets": targets, **splits}.items():
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        digest.update(values.contiguous().numpy().tobytes())


def classification(
    *,
    name: str,
    images: FileImages,
    labels: Sequence[int],
    splits: Mapping[str, Tensor],
    classes: Sequence[str],
    notes: Mapping[str, str],
    metric: str = "top1",
) -> EvalData:
    """Put together a dataset of files with classes.

    Raises:
        DataError: If files are missing or labels are not numbers of classes.
    """
    targets = torch.tensor(labels, dtype=torch.int64)
    check_labels(targets, classes)
    return EvalData(
        name=name,
        sha256=fingerprint(images, targets, splits),
        images=images,
        tasks=class_tasks(targets, splits, classes, metric),
        notes=notes,
        names=images.names,
        root=images.root,
    )


def class_tasks(
    targets: Tensor,
    splits: Mapping[str, Tensor],
    classes: Sequence[str],
    metric: str = "top1",
    name: str = "classes",
) -> tuple[Task, ...]:
    """Return the one task of a dataset with classes: to tell the class."""
    task = Task(
        name=name,
        kind="classification",
        targets=targets,
        splits=splits,
        classes=tuple(classes),
        metric=metric,
    )
    return (task,)


def check_labels(labels: Tensor, classes: Sequence[str]) -> None:
    """Check that labels are numbers of classes.

    Raises:
        DataError: If there are no images or labels are out of range.
    """
    if not len(labels):
        raise DataError("there are no images.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise DataError(f"labels are from {low} to {high}, but there are {len(classes)} classes.")


def published_name(
    name: str, found: Mapping[str, int], published: Mapping[str, int]
) -> tuple[str, dict[str, str]]:
    """Mark a dataset that is not as published.

    Args:
        name: Of the dataset.
        found: Number of images of each part.
        published: What it should be.

    Returns:
        The name, with `(modified)` if a number differs, and then a note that says so.
    """
    differing = {part: size for part, size in published.items() if found[part] != size}
    if not differing:
        return name, {}
    says = ", ".join(f"{part} {found[part]:,} not {size:,}" for part, size in differing.items())
    return f"{name} (modified)", {"modified": f"images other than published: {says}"}


def shown(names: Sequence[str]) -> str:
    """Return the first few names for a message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty.

    Raises:
        DataError: If there is no such file.
    """
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}.") from error


def read_pairs(path: Path) -> dict[str, str]:
    """Return the lines of a text file, each a key and, after a space, a value.

    Raises:
        DataError: If there is no such file, or a line is no such pair.
    """
    pairs = [line.split(maxsplit=1) for line in read_lines(path)]
    wrong = next((number for number, pair in enumerate(pairs, 1) if len(pair) != 2), None)
    if wrong is not None:
        raise DataError(f"{path}, line {wrong}: expected a key and a value.")
    return {key: value for key, value in pairs}
