"""Fine-tuning: a linear classifier on the backbone, and both trained on labelled images.

A plain loop around timm's optimisers, schedule and augmentation. An image's augmentation depends
on seed, epoch and image only, so the number of workers does not matter.
"""

import copy
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from PIL import Image
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from tqdm import tqdm

from cassle_zoo.common.config import NOT_NEGATIVE, Range, check_fields
from cassle_zoo.common.devices import autocast_dtype
from cassle_zoo.common.errors import ConfigError, DataError, NonFiniteLossError
from cassle_zoo.common.images import to_rgb
from cassle_zoo.common.seeds import Batches, Draw, seed_of, seeded
from cassle_zoo.eval.batches import read_batches
from cassle_zoo.features.inference import choose_device, embed, inference


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a classifier is trained.

    The defaults follow Kornblith et al. (2019, arXiv 1805.08974): Nesterov momentum, cosine, crops
    and flips.

    Attributes:
        epochs: Passes over the training images.
        train_batch: Images in a step of training; those left over in an epoch are not used in it.
        optimizer: One of `timm.optim.list_optimizers()`.
        weight_decay: Of all weights but biases and those of normalisation.
        layer_decay: Factor of the learning rate from each layer to the one below it.
        warmup_epochs: Linear warm-up, which is part of `epochs`; then half a cosine down to 0.
        label_smoothing: Share of a label that is spread over all classes.
        min_scale: Smallest share of an image that a random resized crop keeps.
        flip: Probability of a horizontal flip.
        color_jitter: Strength of the jitter of brightness, contrast and saturation.
        precision: fp32, bf16, or auto: bf16 for training where the hardware has it.
    """

    epochs: Annotated[int, Range(1)] = 30
    train_batch: Annotated[int, Range(2)] = 64
    optimizer: str = "sgd"
    weight_decay: Annotated[float, NOT_NEGATIVE] = 1e-4
    layer_decay: Annotated[float, Range(0, 1)] = 1.0
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 1.0
    label_smoothing: Annotated[float, Range(0, 1)] = 0.0
    min_scale: Annotated[float, Range(0, 1, open_low=True)] = 0.2
    flip: Annotated[float, Range(0, 1)] = 0.5
    color_jitter: Annotated[float, Range(0, 1)] = 0.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_fields(self)
        if self.warmup_epochs > self.epochs:
            raise ConfigError(
                f"warmup_epochs must be at most epochs, {self.epochs}, got {self.warmup_epochs}."
            )


class Classifier(nn.Module):
    """A copy of a backbone with a linear layer on its features."""

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        """Copy the backbone; the linear layer is drawn from torch's global generator."""
        super().__init__()
        copied: Any = copy.deepcopy(backbone)
        if getattr(backbone, "num_classes", 0):
            copied.reset_classifier(0)
        self.backbone: nn.Module = copied
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


class Augmented(Dataset[tuple[Tensor, int]]):
    """Labelled images, each augmented by numbers that belong to seed, epoch and image."""

    def __init__(
        self,
        images: Any,
        labels: Tensor,
        transform: Callable[[Image.Image], Tensor],
        seed: int,
    ) -> None:
        """Keep what is read: images by index, and (N,) labels of all of them."""
        self.images = images
        self.labels = labels
        self.transform = transform
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        """Return the image (3, H, W) as it looks in an epoch, and its label.

        Raises:
            DataError: If it cannot be read.
        """
        epoch, index = draw
        try:
            image = to_rgb(self.images[index][0])
        except (OSError, SyntaxError, DataError) as error:
            raise DataError(f"image {index} cannot be read: {error}") from error
        with seeded(seed_of(self.seed, epoch, index)):
            return self.transform(image), int(self.labels[index])


def finetune(
    backbone: nn.Module,
    samples: Augmented,
    rows: Tensor,
    *,
    classes: int,
    lr: float,
    settings: TrainSettings,
    workers: int = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> tuple[Classifier, list[float]]:
    """Train a classifier.

    Args:
        backbone: From images (B, 3, H, W) to features (B, D); not changed.
        samples: The labelled images.
        rows: (N,) int64: the images to train on.
        classes: Number of classes C.
        lr: Peak learning rate.
        settings: How to train.
        workers: Processes that read images.
        device: Where to train, see `choose_device`.
        progress: Whether to show a progress bar; by default on a terminal.

    Returns:
        The classifier on the device it was trained on, and the mean loss of each epoch.

    Raises:
        NonFiniteLossError: If the loss becomes NaN or infinite.
        ConfigError: If timm has no such optimiser, or there is no such device.
        DataError: If an image cannot be read.
    """
    target = choose_device(backbone, device)
    dtype = autocast_dtype(settings.precision, target)
    batches = Batches(rows, settings.train_batch, settings.epochs, samples.seed)
    read = read_batches(samples, batches, workers=workers, pin_memory=target.type == "cuda")
    bar = tqdm(
        read, total=len(batches), unit="step", desc=f"fine-tuning, lr {lr:g}", file=sys.stderr,
        disable=None if progress is None else not progress,
    )  # fmt: skip
    losses: list[float] = []
    with inference(backbone, target):
        image = samples[0, int(rows[0])][0]
        width = embed(backbone, image[None].to(target)).shape[1]
    # What the network draws (dropout) is seeded too.
    with bar, seeded(seed_of(samples.seed, "network"), target), _reproducible():
        model = Classifier(backbone, width, classes).to(target).train()
        optimizer = build_optimizer(model, lr, settings)
        for step, (images, labels) in enumerate(bar):
            share = learning_rate(
                step, round(settings.warmup_epochs * batches.per_epoch), len(batches)
            )
            for group in optimizer.param_groups:
                group["lr"] = lr * share * group.get("lr_scale", 1.0)
            batch = images.to(target, memory_format=torch.channels_last)
            with torch.autocast(target.type, dtype, enabled=dtype is not None):
                logits = model(batch)
            loss = cross_entropy(
                logits.float(), labels.to(target), label_smoothing=settings.label_smoothing
            )
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise NonFiniteLossError(
                    f"the loss of fine-tuning is {losses[-1]} at step {step} of {len(batches)} "
                    f"with lr {lr:g}; use a smaller one, or --precision fp32."
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model, _means(losses, batches.per_epoch)


def build_optimizer(model: Classifier, lr: float, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return timm's optimiser over backbone and head.

    Raises:
        ConfigError: If timm has no optimiser of that name, or the backbone's layers are unknown.
    """
    common: Any = {
        "weight_decay": settings.weight_decay,
        "no_weight_decay_list": getattr(model.backbone, "no_weight_decay", set)(),
    }
    if settings.layer_decay == 1:
        groups = param_groups_weight_decay(model.backbone, **common)
    elif hasattr(model.backbone, "group_matcher"):
        groups = param_groups_layer_decay(
            model.backbone, layer_decay=settings.layer_decay, **common
        )
    else:
        raise ConfigError(
            f"layer_decay: {type(model.backbone).__name__} does not tell its layers (timm's "
            "group_matcher); use 1."
        )
    head = [
        {"params": [model.head.weight], "weight_decay": settings.weight_decay},
        {"params": [model.head.bias], "weight_decay": 0.0},
    ]
    try:
        optimizer = create_optimizer_v2(
            [*groups, *head], opt=settings.optimizer, lr=lr, momentum=0.9
        )
    except ValueError as error:
        raise ConfigError(
            f"optimizer {settings.optimizer!r}: {error} "
            "See timm.optim.list_optimizers() for the names."
        ) from error
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def learning_rate(step: int, warmup: int, total: int) -> float:
    """Return a step's share of the peak: linear up to 1, then half a cosine down to 0.

    Args:
        step: In [0, `total`).
        warmup: Number of steps of the linear part.
        total: Number of all steps.
    """
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


@contextmanager
def _reproducible() -> Iterator[None]:
    """Let cuDNN choose algorithms that give the same result every time."""
    switches: Any = torch.backends.cudnn
    old = switches.benchmark, switches.deterministic
    switches.benchmark, switches.deterministic = False, True
    try:
        yield
    finally:
        switches.benchmark, switches.deterministic = old


def _means(values: Sequence[float], size: int) -> list[float]:
    return [sum(values[start : start + size]) / size for start in range(0, len(values), size)]
