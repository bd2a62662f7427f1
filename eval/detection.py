"""Object detection: a Faster R-CNN on the backbone, trained from its weights.

The detector is Detectron2's R50-C4 as MoCo trains it (He et al., 2020, arXiv 1911.05722, appendix),
built from torchvision's parts: regions are found on the output of the third stage (stride 16) and
classified by the fourth stage, followed by one more BatchNorm, so that every weight of the backbone
is used. All of it is trained, BatchNorm included. It differs from Detectron2's in that boxes are
regressed with a smoothed L1 loss, pooled as torchvision's `roi_align` does by default, and
BatchNorm's statistics are not estimated anew before the test.
"""

import copy
import itertools
import math
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from timm.data.config import resolve_model_data_config
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from tqdm import tqdm

from cassle_zoo.common.config import NOT_NEGATIVE, POSITIVE, Range, check_fields
from cassle_zoo.common.errors import ConfigError, NonFiniteLossError
from cassle_zoo.common.seeds import Batches, seed_of, seeded
from cassle_zoo.eval.batches import read_batches
from cassle_zoo.eval.detection_ap import Boxes
from cassle_zoo.eval.detection_data import DetectionImages
from cassle_zoo.features.inference import inference

ANCHORS = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
POOLED = 14
DROPS = (18 / 24, 22 / 24)
"""Shares of the iterations after which the learning rate falls to a tenth."""


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """How a detector is trained; the defaults are the usual protocol for VOC07+12.

    Attributes:
        iterations: Steps of SGD with momentum 0.9; after 3/4 and 11/12 of them the learning rate
            falls to a tenth.
        train_batch: Images in a step.
        lr: Learning rate.
        warmup: Steps over which the learning rate rises from a thousandth.
        weight_decay: Of all weights but those of BatchNorm.
        sizes: Short sides (pixels) that training draws from; the last is that of the test.
        max_size: Limit (pixels) of the long side.
        rois: Regions of an image that the classifier is trained on.
    """

    iterations: Annotated[int, Range(1)] = 24000
    train_batch: Annotated[int, Range(1)] = 16
    lr: Annotated[float, POSITIVE] = 0.02
    warmup: Annotated[int, Range(0)] = 100
    weight_decay: Annotated[float, NOT_NEGATIVE] = 1e-4
    sizes: Annotated[tuple[int, ...], Range(1)] = (
        480,
        512,
        544,
        576,
        608,
        640,
        672,
        704,
        736,
        768,
        800,
    )
    max_size: Annotated[int, Range(1)] = 1333
    rois: Annotated[int, Range(1)] = 512

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_fields(self)
        if not self.sizes:
            raise ConfigError("sizes must be at least one number.")


def build_detector(model: nn.Module, classes: int, settings: DetectorSettings) -> FasterRCNN:
    """Return a detector around a copy of a ResNet; its heads are drawn from torch's generator.

    Args:
        model: timm's, with four stages at strides 4 to 32.
        classes: Number of classes, without the background.
        settings: Sizes of images and number of regions.

    Raises:
        ConfigError: If it is another network.
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
    model: nn.Module,
    data: DetectionImages,
    rows: Tensor,
    *,
    classes: int,
    settings: DetectorSettings,
    device: torch.device,
    seed: int = 0,
    workers: int = 0,
    progress: bool | None = None,
) -> tuple[FasterRCNN, list[float]]:
    """Train a detector, in float32: in bf16 boxes would be rounded to several pixels.

    The same seed gives the same detector on a CPU; on a GPU up to the rounding of `roi_align`,
    whose gradient is summed in any order. An interrupted training cannot be resumed.

    Args:
        model: See `build_detector`; not changed.
        data: Images with their objects.
        rows: (N,) int64: the images to train on.
        classes: Number of classes.
        settings: How to train.
        device: Where to train.
        seed: Of the order of the images, the heads, and the sampling of regions.
        workers: Processes that read images.
        progress: Whether to show a progress bar; by default on a terminal.

    Returns:
        The detector, and the loss of each step.

    Raises:
        ConfigError: See `build_detector`.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        DataError: If an image cannot be read.
    """
    batches = Batches(rows, settings.train_batch, settings.iterations, seed)
    drawn = list(itertools.islice(batches, settings.iterations))
    bar = tqdm(
        read_batches(data, drawn, workers=workers, collate=list),
        total=len(drawn), unit="step", desc="detector", file=sys.stderr,
        disable=None if progress is None else not progress,
    )  # fmt: skip
    losses: list[float] = []
    with bar, seeded(seed_of(seed, "detector"), device):
        detector = build_detector(model, classes, settings).to(device).train()
        optimizer = _optimizer(detector, settings)
        for step, samples in enumerate(bar):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * learning_rate(step, settings)
            parts = detector(
                [image.to(device) for image, _ in samples],
                [{key: value.to(device) for key, value in boxes.items()} for _, boxes in samples],
            )
            loss = sum(parts.values())
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise NonFiniteLossError(
                    f"the loss of the detector is {losses[-1]} at step {step} of "
                    f"{settings.iterations} with lr {settings.lr:g}; use a smaller one."
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return detector, losses


def learning_rate(step: int, settings: DetectorSettings) -> float:
    """Return a step's share of the learning rate: linear warm-up, and two falls to a tenth."""
    share = 0.1 ** sum(step >= round(drop * settings.iterations) for drop in DROPS)
    if step < settings.warmup:
        share *= 0.001 + 0.999 * step / settings.warmup
    return share


def detect(
    detector: FasterRCNN,
    data: DetectionImages,
    rows: Tensor,
    *,
    device: torch.device,
    workers: int = 0,
    progress: bool | None = None,
) -> list[Boxes]:
    """Detect objects: up to 100 in an image, with a score of at least 0.05.

    Args:
        detector: From `train_detector`.
        data: The images, which are looked at one by one, because a batch is padded.
        rows: (N,) int64: which of them.
        device: Where to compute.
        workers: Processes that read images.
        progress: Whether to show a progress bar; by default on a terminal.

    Raises:
        DataError: If an image cannot be read.
    """
    draws = [[(0, index)] for index in rows.tolist()]
    bar = tqdm(
        read_batches(data, draws, workers=workers, collate=list),
        total=len(draws), unit="img", desc="detection", file=sys.stderr,
        disable=None if progress is None else not progress,
    )  # fmt: skip
    found = []
    with bar, inference(detector, device):
        for ((image, _),) in bar:
            (output,) = detector([image.to(device)])
            boxes, labels, scores = (output[k].cpu() for k in ("boxes", "labels", "scores"))
            found.append(Boxes(boxes=boxes, labels=labels - 1, scores=scores))
    return found


def _optimizer(detector: nn.Module, settings: DetectorSettings) -> torch.optim.Optimizer:
    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    undecayed = {id(parameter) for norm in norms for parameter in norm.parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in detector.parameters() if id(p) not in undecayed]},
        {"params": [p for m in norms for p in m.parameters()], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
