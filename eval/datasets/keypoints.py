"""Regression of keypoints: Leeds Sports Pose, 300W and the landmarks of CelebA.

Targets are x, y, x, y, ... as fractions of the side of the square that the network sees: the centre
of the image or, for 300W, the bounding box of the face's keypoints. The official code tests on
training data (Leeds Sports Pose) or validation data (CelebA) and normalises the keypoint vectors of
300W to unit length; here models are tested on test data, and keypoints are not normalised.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import CelebA

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.readers import Box, ImageFiles
from cassle_zoo.eval.base import EvalData, Task
from cassle_zoo.eval.datasets.files import (
    downloading,
    hash_files,
    published_name,
    read_lines,
    read_pairs,
    require_scipy,
    with_labels,
)

_OFFICIAL_SEED = 0
_LSP_JOINTS = 14
_W300_POINTS = 68
_CELEBA_POINTS = 5
_CELEBA_PARTS = {"0": "train", "1": "val", "2": "test"}
_CELEBA_PUBLISHED = {"train": 162770, "val": 19867, "test": 19962}
_SHUFFLED = f"of the images shuffled by numpy, seed {_OFFICIAL_SEED}, as in the official code"


def open_lspose(root: Path) -> EvalData:
    """Open Leeds Sports Pose: 14 joints of 2,000 images.

    Raises:
        DataError: If files are missing, or the joints do not match the images.
        MissingDependencyError: If scipy is not installed.
    """
    require_scipy("lspose")
    from scipy.io import loadmat

    files = sorted((root / "images").glob("*.jpg"))
    if not files or not (root / "joints.mat").is_file():
        raise DataError(f"lspose: expected in {root}: images/im0001.jpg, ..., and joints.mat.")
    # On damaged files scipy can raise anything.
    try:
        joints = np.asarray(loadmat(root / "joints.mat")["joints"], dtype=np.float64)
    except Exception as error:
        raise DataError(f"cannot read {root / 'joints.mat'}: {error}") from error
    if joints.shape != (3, _LSP_JOINTS, len(files)):
        raise DataError(
            f"{root / 'joints.mat'}: joints are {joints.shape}, expected (3, {_LSP_JOINTS}, "
            f"{len(files)}) for the {len(files)} images."
        )
    boxes = [_centre(_size(file)) for file in files]
    points = torch.from_numpy(joints[:2]).permute(2, 1, 0)
    count = len(files)
    order = _shuffled(count)
    train = int(count * 0.6)
    held_out = train // 10
    splits = {
        "train": order[: train - held_out],
        "val": order[train - held_out : train],
        "test": order[train:],
    }
    name, notes = published_name("lspose", {"all": count}, {"all": 2000})
    notes["splits"] = f"54 / 6 / 40 % {_SHUFFLED} (there 60 % for training)"
    return _assemble(name, _images(root, files, boxes), points, splits, notes)


def open_300w(root: Path) -> EvalData:
    """Open 300W: 68 points of 300 faces indoors and 300 outdoors.

    Raises:
        DataError: If files are missing or damaged.
    """
    base = root / "300W" if (root / "300W").is_dir() else root
    folders = (base / "01_Indoor", base / "02_Outdoor")
    files = [file for folder in folders for file in sorted(folder.glob("*.png"))]
    if not files:
        raise DataError(
            f"300w: expected in {root}: 01_Indoor/indoor_001.png and .pts, ..., 02_Outdoor/..."
        )
    points = torch.stack([_read_points(file.with_suffix(".pts")) for file in files])
    boxes = [_around(own) for own in points]
    # The official code leaves the last image out.
    count = max(len(files) - 1, 1)
    order = _shuffled(count)
    first, second = int(count * 0.3), int(count * 0.6)
    splits = {"train": order[:first], "val": order[first:second], "test": order[second:]}
    name, notes = published_name("300w", {"all": len(files)}, {"all": 600})
    notes["splits"] = f"30 / 30 / 40 % {_SHUFFLED}, all but the last"
    return _assemble(name, _images(base, files, boxes), points, splits, notes)


def open_celeba(root: Path, download: bool = False) -> EvalData:
    """Open CelebA's five landmarks of aligned faces.

    Raises:
        DataError: If files are missing or damaged.
    """
    base = root / "celeba"
    if download:
        with downloading("celeba", root):
            CelebA(root, split="all", target_type="landmarks", download=True)
    if not (base / "img_align_celeba").is_dir():
        raise DataError(
            f"celeba: expected in {base}: img_align_celeba/*.jpg, list_eval_partition.txt and "
            "list_landmarks_align_celeba.txt. --download fetches them."
        )
    # The first two lines are the number of images and the names of the columns.
    listed = base / "list_landmarks_align_celeba.txt"
    rows = [line.split() for line in read_lines(listed)[2:]]
    parts = read_pairs(base / "list_eval_partition.txt")
    names = [row[0] for row in rows]
    if set(names) != parts.keys() or not set(parts.values()) <= _CELEBA_PARTS.keys():
        raise DataError(f"{base}: landmarks and partition list different images.")
    try:
        values = torch.tensor([[float(value) for value in row[1:]] for row in rows])
    except ValueError as error:
        raise DataError(f"{listed}: {error}.") from error
    if values.shape != (len(names), 2 * _CELEBA_POINTS):
        raise DataError(f"{listed}: expected lines of ten numbers.")
    of_part = [_CELEBA_PARTS[parts[name]] for name in names]
    splits = {
        part: torch.tensor([i for i, own in enumerate(of_part) if own == part], dtype=torch.int64)
        for part in _CELEBA_PUBLISHED
    }
    sizes = {part: len(indices) for part, indices in splits.items()}
    name, notes = published_name("celeba", sizes, _CELEBA_PUBLISHED)
    notes["splits"] = "the dataset's own train / validation / test (official code: no test)"
    # Aligned faces are all of one size.
    boxes = [_centre(_size(base / "img_align_celeba" / names[0]))] * len(names)
    images = ImageFiles(base, [f"img_align_celeba/{name}" for name in names], boxes=boxes)
    return _assemble(name, images, values.unflatten(1, (-1, 2)), splits, notes)


def _assemble(
    name: str,
    images: ImageFiles,
    points: Tensor,
    splits: Mapping[str, Tensor],
    notes: Mapping[str, str],
) -> EvalData:
    """Assemble a dataset from points (N, K, 2) in pixels."""
    boxes = torch.tensor(images.boxes, dtype=torch.float64)
    sides = (boxes[:, 2] - boxes[:, 0])[:, None, None]
    targets = ((points - boxes[:, None, :2]) / sides).flatten(1).float()
    if not torch.isfinite(targets).all():
        raise DataError(f"{name}: keypoints are NaN or infinite.")
    empty = [split for split, indices in splits.items() if not len(indices)]
    if empty:
        raise DataError(f"{name}: no images to {' and '.join(empty)} on.")
    task = Task(name="keypoints", kind="regression", targets=targets, splits=splits, metric="r2")
    return EvalData(
        name=name,
        sha256=with_labels(hash_files(images), targets, splits),
        images=images,
        tasks=(task,),
        notes={**notes, "targets": "x, y of each keypoint as fractions of the square that is seen"},
        names=images.names,
        root=images.root,
    )


def _images(root: Path, files: list[Path], boxes: list[Box]) -> ImageFiles:
    return ImageFiles(root, [file.relative_to(root).as_posix() for file in files], boxes=boxes)


def _shuffled(count: int) -> Tensor:
    order = np.arange(count)
    np.random.RandomState(_OFFICIAL_SEED).shuffle(order)
    return torch.from_numpy(order)


def _size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.size
    except OSError as error:
        raise DataError(f"cannot read {file}: {error}") from error


def _centre(size: tuple[int, int]) -> Box:
    """Return the square in the middle, as wide as the short side."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def _around(points: Tensor) -> Box:
    """Return the square that holds the points, starting at their top left."""
    low, high = points.min(0).values, points.max(0).values
    left, top = math.floor(low[0]), math.floor(low[1])
    side = max(math.ceil(high[0]) - left, math.ceil(high[1]) - top, 1)
    return left, top, left + side, top + side


def _read_points(path: Path) -> Tensor:
    """Read a `.pts` file: two header lines, then in braces x and y of one point per line."""
    lines = read_lines(path)
    try:
        rows = lines[lines.index("{") + 1 : lines.index("}")]
        points = torch.tensor([[float(value) for value in row.split()] for row in rows])
    except ValueError as error:
        raise DataError(f"{path} is not a .pts file of version 1: {error}") from error
    if points.shape != (_W300_POINTS, 2):
        raise DataError(f"{path} has points {tuple(points.shape)}, expected ({_W300_POINTS}, 2).")
    return points
