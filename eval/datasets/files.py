"""Helpers of the datasets: reading lists, hashing files, assembling a classification dataset."""

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from cassle_zoo.common.errors import DataError, MissingDependencyError
from cassle_zoo.common.files import sha256
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.eval.base import EvalData, Images, Task

T = TypeVar("T")

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
    contents: Sequence[str] = (),
) -> EvalData:
    """Assemble a dataset with one classification task.

    The arguments are fields of `EvalData` and `Task`, except for `labels`, the N class numbers;
    `task`, the task's name; and `digest`, a hash of the images, which is computed here for
    `ImageFiles`, from the hashes of their `contents` if these are known.

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
        digest = hash_files(files, contents)
    if digest is None:
        # Features are cached under it: without it, other images with these labels would get them.
        raise TypeError("images that are no ImageFiles need a digest of their content")
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
        sha256=with_labels(digest, targets, splits),
        images=images,
        tasks=(found,),
        notes=notes,
        names=files.names if files else (),
        root=files.root if files else None,
    )


def hash_files(images: ImageFiles, contents: Sequence[str] = ()) -> "hashlib._Hash":
    """Hash the names and contents of image files, in order, and their boxes.

    Args:
        images: The files.
        contents: Hashes of their contents, if these are known.

    Raises:
        DataError: If files are missing or cannot be read.
    """
    digest = hashlib.sha256()
    for name, content in zip(images.names, contents or hash_contents(images), strict=True):
        digest.update(f"{name} {content}\n".encode("utf-8", "surrogateescape"))
    digest.update(repr(images.boxes).encode())
    return digest


def hash_contents(images: ImageFiles) -> list[str]:
    """Return the sha256 of each image file's content, in order.

    Raises:
        DataError: If files are missing or cannot be read.
    """
    missing = [name for name in images.names if not (images.root / name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images are not in {images.root}, the first is "
            f"{missing[0]}. Was the archive unpacked completely?"
        )
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            files = (images.root / name for name in images.names)
            return list(hash_bar(pool.map(sha256, files), len(images)))
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}.") from error


def with_labels(digest: "hashlib._Hash", targets: Tensor, splits: Mapping[str, Tensor]) -> str:
    """Return the hash of a dataset: the hash of its images, updated with targets and splits."""
    for name, values in {"targets": targets, **splits}.items():
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_bar(items: Iterable[T], total: int) -> "tqdm[T]":
    """Return a progress bar on standard error, shown on a terminal if it takes over a second."""
    settings = {"unit": "img", "desc": "hashes", "leave": False, "delay": 1, "disable": None}
    return tqdm(items, total=total, **settings)


def published_name(
    name: str, found: Mapping[str, int], published: Mapping[str, int]
) -> tuple[str, dict[str, str]]:
    """Mark a dataset that differs from the published one.

    Args:
        name: Name of the dataset.
        found: Number of images in each part.
        published: The published numbers.

    Returns:
        The name, followed by `(modified)` if a number differs, and a note about the difference.
    """
    differing = {part: size for part, size in published.items() if found[part] != size}
    if not differing:
        return name, {}
    says = ", ".join(f"{part} {found[part]:,} not {size:,}" for part, size in differing.items())
    return f"{name} (modified)", {"modified": f"images other than published: {says}"}


def require_scipy(name: str) -> None:
    """Raise a `MissingDependencyError` if scipy, which reads MATLAB files, is not installed."""
    if importlib.util.find_spec("scipy") is None:
        raise MissingDependencyError(
            f'{name} has MATLAB files, which need scipy: pip install "cassle-zoo[mat]".'
        )


@contextmanager
def downloading(name: str, root: Path) -> Iterator[None]:
    """Turn errors of torchvision's downloads into a `DataError`."""
    try:
        yield
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        raise DataError(f"{name} could not be downloaded into {root}: {error}") from error


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a text file.

    Raises:
        DataError: If there is no such file.
    """
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}.") from error


def read_pairs(path: Path) -> dict[str, str]:
    """Return the lines of a text file, each a key and a value separated by a space.

    Raises:
        DataError: If there is no such file, or a line is not such a pair.
    """
    pairs = [line.split(maxsplit=1) for line in read_lines(path)]
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2:
            raise DataError(f"{path}, line {number}: expected a key and a value.")
    return {key: value for key, value in pairs}
