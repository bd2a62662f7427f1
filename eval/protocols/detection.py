"""Object detection: a Faster R-CNN trained from the backbone, and its average precision.

The detector is Detectron2's R50-C4 as MoCo trains it (He et al., 2020, arXiv 1911.05722, appendix),
built from torchvision's parts: regions are proposed on the output of the third stage (stride 16)
and classified by the fourth stage, followed by one more BatchNorm, so that every weight of the
backbone is used. All of it is trained, including BatchNorm. Unlike Detectron2's, it regresses boxes
with a smoothed L1 loss, pools with the defaults of torchvision's `roi_align`, and does not
re-estimate BatchNorm's statistics before the test.

Average precision follows PASCAL VOC 2007 (Everingham et al., "The PASCAL Visual Object Classes
Challenge", IJCV 2010, section 4.2); at thresholds other than 0.5 it is that of Detectron2's
`PascalVOCDetectionEvaluator`, whose numbers papers report.
"""

import copy
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
from timm.data.config import resolve_model_data_config
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, box_iou
from torchvision.transforms.functional import pil_to_tensor

from cassle_zoo.common.config import NOT_NEGATIVE, POSITIVE, Range
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.seeds import seed_of, seeded
from cassle_zoo.eval.base import EvalContext, Outcome, Settings, Task
from cassle_zoo.eval.batches import Batches, Draw, read_batches, read_image, train
from cassle_zoo.features.inference import choose_device, inference

ANCHORS = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
POOLED = 14
DROPS = (18 / 24, 22 / 24)
"""Fractions of the iterations after which the learning rate falls to a tenth."""

THRESHOLDS: tuple[float, ...] = tuple((50 + 5 * step) / 100 for step in range(10))
"""Intersections over union from 0.5 to 0.95 above which a detection may count."""

RECALLS = 11
_POINTS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """The objects or the detections in an image.

    Attributes:
        boxes: (N, 4) left, top, right, bottom in pixels.
        labels: (N,) integers.
        scores: (N,) confidences of detections.
        difficult: (N,) bool for objects: those that do not count, found or missed.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    difficult: Tensor | None = None


def average_precisions(found: Sequence[Boxes], truth: Sequence[Boxes], classes: int) -> Tensor:
    """Return the average precision of each class.

    Args:
        found: Detections in each image.
        truth: Objects in each image, in the same order.
        classes: Number of classes C; labels are in [0, C).

    Returns:
        (C, T) float64 in [0, 1], for each of `THRESHOLDS`; NaN for classes without an object that
        counts.

    Raises:
        DataError: If the numbers of images differ.
    """
    if len(found) != len(truth):
        raise DataError(f"there are detections in {len(found)} images, but {len(truth)} images.")
    limits = torch.tensor(THRESHOLDS, dtype=torch.float64)
    return torch.stack([_of_class(found, truth, label, limits) for label in range(classes)])


def eleven_point(recall: Tensor, precision: Tensor) -> float:
    """Return the mean of the best precisions at recalls of at least 0, 0.1, ..., 1.

    Args:
        recall: (M,) recall of the first 1, ..., M detections.
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
    """Return the average precision of detections (M,), the most confident first.

    `hit` says whether a detection overlaps enough with its nearest object `target`, and `skip`
    whether that object is difficult; `total` objects are not.
    """
    # Only the first detection of an object is right; further ones are wrong.
    taken: set[int] = set()
    right = torch.zeros_like(hit)
    for place in (hit & ~skip).nonzero().flatten().tolist():
        number = int(target[place])
        right[place] = number not in taken
        taken.add(number)
    counts = right[right | ~(hit & skip)].double()
    correct = counts.cumsum(0)
    return eleven_point(correct / total, correct / torch.arange(1, len(counts) + 1))


class DetectionImages(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with their objects; seed, epoch and image decide whether they are flipped."""

    def __init__(self, images: Any, targets: Tensor, seed: int | None) -> None:
        """Take images and (N, K, 6) objects, see `Task`; without a seed nothing is flipped."""
        self.images = images
        self.targets = targets
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return an image (3, H, W) in [0, 1] and its objects in torchvision's format.

        Raises:
            DataError: If it cannot be read.
        """
        epoch, index = draw
        image: Tensor = pil_to_tensor(read_image(self.images, index)).float() / 255
        rows = self.targets[index]
        rows = rows[rows[:, 0] >= 0]
        boxes = rows[:, 1:5].clone()
        if self.seed is not None and seed_of(self.seed, epoch, index) % 2:
            image = image.flip(2)
            boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": rows[:, 0].long() + 1}


def objects_of(targets: Tensor, rows: Tensor) -> Sequence[Boxes]:
    """Return the objects in images, from (N, K, 6) rows of class, box, and difficult."""
    parts = (target[target[:, 0] >= 0] for target in targets[rows])
    return [
        Boxes(boxes=part[:, 1:5], labels=part[:, 0].long(), difficult=part[:, 5] > 0)
        for part in parts
    ]


def build_detector(model: nn.Module, classes: int, settings: "Detection") -> FasterRCNN:
    """Build a detector around a copy of a ResNet; its heads are drawn from torch's generator.

    Args:
        model: A ResNet of timm with four stages at strides 4 to 32.
        classes: Number of classes, without the background.
        settings: Sizes of images and number of regions.

    Raises:
        ConfigError: If the model is another network.
    """
    if not isinstance(model, ResNet) or model.feature_info[-1]["reduction"] != 32:
        raise ConfigError(
            f"the detector is built around a ResNet of timm, whose last stage classifies the "
            f"regions; this is a {type(model).__name__}."
        )
    net: Any = copy.deepcopy(model)
    names = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3")
    body = nn.Sequential(OrderedDict((name, getattr(net, name)) for name in names))
    body.out_channels = net.feature_info[3]["num_chs"]
    width = net.num_features
    head = nn.Sequential(net.layer4, nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    predictor = FastRCNNPredictor(width, classes + 1)
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return FasterRCNN(
        body,
        min_size=settings.sizes,
        max_size=settings.max_size,
        image_mean=config["mean"],
        image_std=config["std"],
        rpn_anchor_generator=AnchorGenerator((ANCHORS,), (RATIOS,)),
        rpn_pre_nms_top_n_train=12000,
        rpn_pre_nms_top_n_test=6000,
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=POOLED, sampling_ratio=0),
        box_head=head,
        box_predictor=predictor,
        box_batch_size_per_image=settings.rois,
    )


def train_detector(
    context: EvalContext, task: Task, settings: "Detection"
) -> tuple[FasterRCNN, list[float]]:
    """Train a detector in float32: in bf16 boxes would be rounded to several pixels.

    The same seed gives the same detector on a CPU; on a GPU, the gradient of `roi_align` is summed
    in no fixed order. An interrupted training cannot be resumed.

    Args:
        context: Its model, see `build_detector`, is not changed.
        task: A `detection` task.
        settings: Settings of the training.

    Returns:
        The detector, and the loss of each step.

    Raises:
        ConfigError: See `build_detector`.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        DataError: If an image cannot be read.
    """
    model, compute = context.model, context.compute
    data = DetectionImages(context.data.images, task.targets, compute.seed)
    steps = settings.iterations
    batches = Batches(task.splits["train"], settings.train_batch, steps, compute.seed)
    read = read_batches(
        data, list(itertools.islice(batches, steps)), workers=compute.workers, collate=list
    )
    device = choose_device(model, compute.device)
    with seeded(seed_of(compute.seed, "detector"), device):
        detector = build_detector(model, len(task.classes), settings).to(device).train()

        def loss_of(samples: list[Any]) -> Tensor:
            parts = detector(
                [image.to(device) for image, _ in samples],
                [{key: value.to(device) for key, value in boxes.items()} for _, boxes in samples],
            )
            total: Tensor = sum(parts.values())
            return total

        losses = train(
            loss_of,
            compute.bar(read, total=steps, unit="step", desc="detector"),
            _optimizer(detector, settings),
            lr=settings.lr,
            schedule=lambda step: lr_fraction(step, settings),
        )
    return detector, losses


def lr_fraction(step: int, settings: "Detection") -> float:
    """Return the fraction of the learning rate at a step: warm-up, then two falls to a tenth."""
    fraction = 0.1 ** sum(step >= round(drop * settings.iterations) for drop in DROPS)
    if step < settings.warmup:
        fraction *= 0.001 + 0.999 * step / settings.warmup
    return fraction


def detect(detector: FasterRCNN, context: EvalContext, task: Task) -> list[Boxes]:
    """Detect up to 100 objects in each test image, with a score of at least 0.05.

    Args:
        detector: From `train_detector`.
        context: The context with the images.
        task: A `detection` task.

    Raises:
        DataError: If an image cannot be read.
    """
    compute = context.compute
    data = DetectionImages(context.data.images, task.targets, None)
    draws = [[(0, index)] for index in task.splits["test"].tolist()]  # a batch would be padded
    read = read_batches(data, draws, workers=compute.workers, collate=list)
    device = choose_device(context.model, compute.device)
    found = []
    with inference(detector, device):
        for ((image, _),) in compute.bar(read, total=len(draws), unit="img", desc="detection"):
            (output,) = detector([image.to(device)])
            boxes, labels, scores = (output[k].cpu() for k in ("boxes", "labels", "scores"))
            found.append(Boxes(boxes=boxes, labels=labels - 1, scores=scores))
    return found


def _optimizer(detector: nn.Module, settings: "Detection") -> torch.optim.Optimizer:
    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    undecayed = {id(parameter) for norm in norms for parameter in norm.parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in detector.parameters() if id(p) not in undecayed]},
        {"params": [p for m in norms for p in m.parameters()], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Detection(Settings):
    """Object detection: Faster R-CNN (C4) trained from the backbone, AP as in PASCAL VOC 2007.

    The defaults are the usual protocol for VOC07+12.

    Attributes:
        iterations: Steps of SGD with momentum 0.9; after 3/4 and 11/12 of them the learning rate
            falls to a tenth.
        train_batch: Images in a step.
        lr: Learning rate.
        warmup: Steps over which the learning rate rises from a thousandth.
        weight_decay: Weight decay of all weights but those of BatchNorm.
        sizes: Short sides in pixels that training draws from; the last is used in the test.
        max_size: Limit of the long side in pixels.
        rois: Regions per image that the classifier is trained on.
    """

    iterations: Annotated[int, Range(1)] = 24000
    train_batch: Annotated[int, Range(1)] = 16
    lr: Annotated[float, POSITIVE] = 0.02
    warmup: Annotated[int, Range(0)] = 100
    weight_decay: Annotated[float, NOT_NEGATIVE] = 1e-4
    sizes: Annotated[tuple[int, ...], Range(1)] = tuple(range(480, 801, 32))
    max_size: Annotated[int, Range(1)] = 1333
    rois: Annotated[int, Range(1)] = 512

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not self.sizes:
            raise ConfigError("sizes must be at least one number.")

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return mAP at 0.5, at 0.75, and over 0.5 to 0.95, and the AP of each class at 0.5."""
        metrics: dict[str, dict[str, float]] = {}
        series: dict[str, list[float]] = {}
        for task in context.data.tasks_of("detection"):
            own, losses = self._measure(context, task)
            metrics |= own
            size = -(-len(losses) // _POINTS)
            windows = [losses[start : start + size] for start in range(0, len(losses), size)]
            series[f"{task.name}: loss"] = [sum(window) / len(window) for window in windows]
        settings = ", ".join(f"{field.name}: {getattr(self, field.name)}" for field in fields(self))
        return Outcome(
            metrics=metrics,
            series=series,
            protocol={
                "input": "images as they are, resized to the sizes below",
                "detector": f"Faster R-CNN, C4, stage 4 and a BatchNorm as box head; {settings}",
                "average precision": "11 points, IoU above 0.5, 0.55, ..., 0.95, difficult objects "
                "ignored in the test; mean over the classes that the test has",
            },
        )

    def _measure(
        self, context: EvalContext, task: Task
    ) -> tuple[dict[str, dict[str, float]], list[float]]:
        test = task.splits["test"]
        if not len(task.splits["train"]) or not len(test):
            raise DataError(f"task {task.name} needs training and test images.")
        detector, losses = train_detector(context, task, self)
        found = detect(detector, context, task)
        ap = average_precisions(found, objects_of(task.targets, test), len(task.classes))
        known = ~ap[:, 0].isnan()
        if not known.any():
            raise DataError(f"task {task.name}: the test images have no object that counts.")
        mean = ap[known].mean(0)
        by_class = zip(task.classes, ap[:, 0].tolist(), known.tolist(), strict=True)
        return {
            task.name: {
                "mAP50": float(mean[THRESHOLDS.index(0.5)]),
                "mAP75": float(mean[THRESHOLDS.index(0.75)]),
                "mAP": float(mean.mean()),
            },
            f"{task.name} by class": {
                f"{name} AP50": value for name, value, counts in by_class if counts
            },
        }, losses
