"""From images with labels to a dataset: hashing, checking and putting it together."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.files import sha256
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.eval.base import EvalData, Images, Task

_READERS = 8  # threads: disks answer several requests faster than one by one


def classification(
    *,
    name: str,
    images: Images,
    labels: Sequence[int],
    splits: Mapping[str, Tensor],
    classes: Sequence[str],
    notes: Mapping[str, str],
    metric: str = "top1",
    task: str = "classes",
    digest: "hashlib._Hash | None" = None,
) -> EvalData:
    """Put together a dataset whose one task is to tell the class.

    The arguments are fields of `EvalData` and `Task`, but for `labels`, the N class numbers,
    `task`, the task's name, and `digest`, a hash of the images (of `ImageFiles` computed here).

    Raises:
        DataError: If files are missing or labels are not numbers of classes.
    """
    targets = torch.tensor(labels, dtype=torch.int64)
    if not len(targets):
        raise DataError("there are no images.")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= len(classes):
        raise DataError(f"labels are from {low} to {high}, but there are {len(classes)} classes.")
    files = images if isinstance(images, ImageFiles) else None
    if files is not None:
        digest = hash_files(files)
    found = Task(
        name=task,
        kind="classification",
        targets=targets,
        splits=splits,
        classes=tuple(classes),
        metric=metric,
    )
    return EvalData(
        name=name,
        sha256=with_labels(digest or hashlib.sha256(), targets, splits),
        images=images,
        tasks=(found,),
        notes=notes,
        names=files.names if files else (),
        root=files.root if files else None,
    )


def hash_files(images: ImageFiles) -> "hashlib._Hash":
    """Hash the names and contents of files, in order, and their boxes; reads every file once.

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
    hashes = content_hashes(images.root / name for name in images.names)
    for name, content in zip(images.names, hashes, strict=True):
        digest.update(f"{name} {content}\n".encode())
    digest.update(repr(images.boxes).encode())
    return digest


def with_labels(digest: "hashlib._Hash", targets: Tensor, splits: Mapping[str, Tensor]) -> str:
    """Return the hash of a dataset: that of its images, continued with targets and splits."""
    for name, values in {"targets": targets, **splits}.items():
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def content_hashes(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the sha256 of each file's content, in order.

    Raises:
        DataError: If a file cannot be read.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            yield from pool.map(sha256, paths)
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}.") from error


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


def refuse_download(name: str, download: bool) -> None:
    """Raise a `ConfigError` if asked to download what cannot be downloaded."""
    if download:
        raise ConfigError(f"{name} cannot be downloaded by this library; put it there yourself.")


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
