"""Average precision of detections, by the rules of PASCAL VOC 2007.

Everingham et al., "The PASCAL Visual Object Classes Challenge" (IJCV 2010), section 4.2; at
thresholds other than 0.5 as in Detectron2's `PascalVOCDetectionEvaluator`, whose numbers papers
report.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from cassle_zoo.common.errors import DataError

THRESHOLDS: tuple[float, ...] = tuple((50 + 5 * step) / 100 for step in range(10))
"""Intersections over union from 0.5 to 0.95 above which a detection may count."""

RECALLS = 11


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """Boxes in an image: what is there, or what was found.

    Attributes:
        boxes: (N, 4) left, top, right, bottom in pixels.
        labels: (N,) integers.
        scores: (N,) of detections, the larger the surer.
        difficult: (N,) bool, of objects: neither finding nor missing them counts.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    difficult: Tensor | None = None


def average_precisions(
    found: Sequence[Boxes],
    truth: Sequence[Boxes],
    classes: int,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Tensor:
    """Return the average precision of each class.

    Args:
        found: Detections in each image.
        truth: Objects in each image, in the same order.
        classes: Number of classes C; labels are in [0, C).
        thresholds: T intersections over union.

    Returns:
        (C, T) float64 in [0, 1]; NaN for classes without an object that counts.

    Raises:
        DataError: If the numbers of images differ.
    """
    if len(found) != len(truth):
        raise DataError(f"there are detections in {len(found)} images, but {len(truth)} images.")
    limits = torch.tensor(thresholds, dtype=torch.float64)
    return torch.stack([_of_class(found, truth, label, limits) for label in range(classes)])


def eleven_point(recall: Tensor, precision: Tensor) -> float:
    """Average the best precision at a recall of at least 0, 0.1, ..., 1.

    Args:
        recall: (M,), of the first 1, ..., M detections.
        precision: (M,), likewise.
    """
    levels = torch.arange(RECALLS, dtype=torch.float64) / (RECALLS - 1)
    # Recalls are fractions, so that 3 of 10 may fall below 0.3 by rounding.
    reached = recall[None] >= levels[:, None] - 1e-12
    return float(torch.where(reached, precision[None], 0.0).amax(1).mean()) if len(recall) else 0.0


def _of_class(
    found: Sequence[Boxes], truth: Sequence[Boxes], label: int, thresholds: Tensor
) -> Tensor:
    """Return the average precision (T,) of a class."""
    scores, overlaps, objects, ignored = [], [], [], []
    count = total = 0
    for detections, present in zip(found, truth, strict=True):
        mine, there = detections.labels == label, present.labels == label
        if detections.scores is None or present.difficult is None:
            raise DataError("detections need scores, and objects need to be difficult or not.")
        difficult = present.difficult[there]
        total += int((~difficult).sum())
        scores.append(detections.scores[mine].double())
        best = torch.zeros(int(mine.sum()), dtype=torch.float64)
        index = torch.zeros(len(best), dtype=torch.long)
        if len(best) and len(difficult):
            iou = box_iou(detections.boxes[mine].double(), present.boxes[there].double())
            best, index = iou.max(1)
        overlaps.append(best)
        objects.append(index + count)
        ignored.append(difficult[index] if len(difficult) else torch.zeros_like(best).bool())
        count += len(difficult)
    if not total:
        return torch.full_like(thresholds, torch.nan)
    order = torch.cat(scores).argsort(descending=True, stable=True)
    overlap, target, skip = (torch.cat(parts)[order] for parts in (overlaps, objects, ignored))
    hits = overlap[None] > thresholds[:, None]
    return torch.tensor([_ap(hit, target, skip, total) for hit in hits], dtype=torch.float64)


def _ap(hit: Tensor, target: Tensor, skip: Tensor, total: int) -> float:
    """Return the average precision of detections (M,), the surest first.

    Args:
        hit: Whether it overlaps enough with the object that it overlaps most with.
        target: That object.
        skip: Whether that object is difficult.
        total: Number of objects that are not.
    """
    # Only the first detection of an object is right; another of the same is wrong.
    taken: set[int] = set()
    right = torch.zeros_like(hit)
    for place in (hit & ~skip).nonzero().flatten().tolist():
        number = int(target[place])
        right[place] = number not in taken
        taken.add(number)
    counts = right[right | ~(hit & skip)].double()
    correct = counts.cumsum(0)
    return eleven_point(correct / total, correct / torch.arange(1, len(counts) + 1))
