"""PASCAL VOC 2007 and 2012, for detection: trained on both trainvals, tested on 2007's test."""

import hashlib
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor
from torchvision.datasets import VOCDetection

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.eval.base import EvalData, Task
from cassle_zoo.eval.datasets.files import downloading, hash_contents

NAME = "voc07+12"
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
SPLITS = {"train": (("2007", "trainval"), ("2012", "trainval")), "test": (("2007", "test"),)}
DEVKIT = "VOCdevkit"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_data(root: Path, download: bool = False) -> EvalData:
    """Open the dataset.

    Args:
        root: `VOCdevkit`, or the folder that holds it.
        download: Let torchvision download what is missing (2.8 GB).

    Returns:
        A dataset with one `detection` task; see `cassle_zoo.eval.base.Task` for its targets.

    Raises:
        DataError: If files are missing, or an annotation is malformed.
    """
    root = root.parent if root.name == DEVKIT else root
    images: list[Path] = []
    objects: list[list[list[float]]] = []
    splits: dict[str, Tensor] = {}
    digest = hashlib.sha256()
    for split, parts in SPLITS.items():
        start = len(images)
        for year, image_set in parts:
            if download:
                with downloading(NAME, root):
                    VOCDetection(str(root), year=year, image_set=image_set, download=True)
            for image, annotation in _listed(root / DEVKIT / f"VOC{year}", image_set):
                content = _read(annotation)
                digest.update(f"{split} {year} {image.name}\n".encode() + content)
                if not image.is_file():
                    raise _missing(image)
                images.append(image)
                objects.append(_objects(content, annotation))
        splits[split] = torch.arange(start, len(images))
    files = ImageFiles(root, [path.relative_to(root).as_posix() for path in images])
    digest.update("\n".join(hash_contents(files)).encode())
    task = Task(
        name="objects",
        kind="detection",
        targets=_padded(objects),
        splits=splits,
        classes=CLASSES,
        metric="mAP50",
    )
    rule = "; ".join(
        f"{split}: {' + '.join(' '.join(part) for part in parts)}"
        for split, parts in SPLITS.items()
    )
    return EvalData(
        name=NAME,
        sha256=digest.hexdigest(),
        images=files,
        tasks=(task,),
        notes={"splits": f"{rule} ({', '.join(f'{len(rows)}' for rows in splits.values())})"},
        names=tuple(f"{path.parents[1].name}/{path.name}" for path in images),
    )


def _listed(folder: Path, image_set: str) -> list[tuple[Path, Path]]:
    """Return the image and the annotation of each line of a list."""
    lines = _read(folder / "ImageSets" / "Main" / f"{image_set}.txt").decode().split("\n")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{NAME}: the {image_set} list of {folder.name} is empty.")
    return [
        (folder / "JPEGImages" / f"{name}.jpg", folder / "Annotations" / f"{name}.xml")
        for name in names
    ]


def _objects(content: bytes, path: Path) -> list[list[float]]:
    """Return class, left, top, right, bottom and difficult of each object."""
    rows = []
    try:
        for found in ElementTree.fromstring(content).iterfind("object"):
            name = found.findtext("name", "").strip()
            if name not in CLASSES:
                raise DataError(f"{path}: {name!r} is not a class of PASCAL VOC.")
            left, top, right, bottom = (
                float(found.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS
            )
            # VOC counts pixels from 1 and includes the last.
            box = [left - 1, top - 1, right, bottom]
            if right <= left - 1 or bottom <= top - 1:
                raise DataError(f"{path}: the box {box} of {name} is empty.")
            difficult = float(found.findtext("difficult", "0"))
            rows.append([float(CLASSES.index(name)), *box, difficult])
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path} is not an annotation of PASCAL VOC: {error}.") from error
    return rows


def _padded(objects: list[list[list[float]]]) -> Tensor:
    longest = max(map(len, objects))
    targets = torch.full((len(objects), longest, 6), -1.0)
    for target, rows in zip(targets, objects, strict=True):
        if rows:
            target[: len(rows)] = torch.tensor(rows)
    return targets


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise _missing(path) from None


def _missing(path: Path) -> DataError:
    return DataError(
        f"{NAME}: {path} is missing. --data is the folder that holds {DEVKIT}, with the trainval "
        "and test parts of VOC2007 and trainval of VOC2012; --download fetches them."
    )
