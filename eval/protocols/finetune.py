"""Fine-tuning: a linear classifier on the backbone, both trained on labelled images.

A plain loop around timm's optimisers and augmentation. An image's augmentation depends only on
seed, epoch and image, so the number of workers does not matter.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from cassle_zoo.common.config import NOT_NEGATIVE, POSITIVE, Range
from cassle_zoo.common.devices import autocast_dtype
from cassle_zoo.common.errors import ConfigError, DataError, reason_of, unknown_name
from cassle_zoo.common.seeds import seed_of, seeded
from cassle_zoo.data.listing import first_few
from cassle_zoo.eval.base import EvalContext, Outcome, Settings, Task, check_distinct
from cassle_zoo.eval.batches import Batches, Draw, read_batches, read_image, train
from cassle_zoo.eval.metrics import accuracies
from cassle_zoo.eval.protocols.linear_probe import METRICS
from cassle_zoo.eval.protocols.semi_supervised import choose_labelled
from cassle_zoo.eval.scores import classification
from cassle_zoo.features.inference import choose_device, embed, inference


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


@dataclass(eq=False)
class Augmented(Dataset[tuple[Tensor, int]]):
    """Images and their (N,) labels; seed, epoch and image decide how each is augmented."""

    images: Any
    labels: Tensor
    transform: Callable[[Image.Image], Tensor]
    seed: int

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        """Return the image (3, H, W) as augmented in an epoch, and its label.

        Raises:
            DataError: If it cannot be read.
        """
        epoch, index = draw
        image = read_image(self.images, index)
        with seeded(seed_of(self.seed, epoch, index)):
            return self.transform(image), int(self.labels[index])


def build_optimizer(model: Classifier, lr: float, settings: "Finetune") -> torch.optim.Optimizer:
    """Build timm's optimiser for backbone and head.

    Raises:
        ConfigError: If the optimiser cannot be built, for example because timm has none of that
            name or its package is missing, or needs second derivatives; or the backbone's layers
            are unknown.
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
            f"layer_decay: {type(model.backbone).__name__} does not name its layers (timm's "
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
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer {settings.optimizer!r} cannot be used here: {reason_of(error)}. "
            "See timm.optim.list_optimizers() for the names."
        ) from error
    assert isinstance(optimizer, torch.optim.Optimizer)
    if getattr(optimizer, "is_second_order", False):
        raise ConfigError(
            f"optimizer {settings.optimizer!r} cannot be used here: it needs second derivatives, "
            "which are not computed; sgd, adamw and others do not."
        )
    return optimizer


def lr_fraction(step: int, warmup: int, total: int) -> float:
    """Return the fraction of the peak at a step: linear up to 1, then half a cosine down to 0.

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
    """Restrict cuDNN to deterministic algorithms."""
    switches: Any = torch.backends.cudnn
    old = switches.benchmark, switches.deterministic
    switches.benchmark, switches.deterministic = False, True
    try:
        yield
    finally:
        switches.benchmark, switches.deterministic = old


class _Run:
    """Fine-tuning on a task with a fraction of its labels."""

    def __init__(
        self, settings: "Finetune", context: EvalContext, task: Task, fraction: float
    ) -> None:
        model = context.model
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(f"{context.source.name} has no weights to fine-tune.")
        self.settings = settings
        self.context = context
        self.task = task
        self.rows = {"test": task.splits["test"]}
        for split in ("train", "val"):
            rows, names = task.splits[split], context.data.names
            self.rows[split] = choose_labelled(
                rows, task.targets[rows], fraction, seed=context.compute.seed, names=names
            )
        self._check()

    @property
    def count(self) -> int:
        """Number of labelled images."""
        return len(self.rows["train"]) + len(self.rows["val"])

    def best_lr(self) -> float:
        rates = sorted(self.settings.lr)
        if len(rates) == 1:
            return rates[0]
        labels = self.task.targets[self.rows["val"]]
        tested = (self.test(self.train(lr, ("train",))[0], "val") for lr in rates)
        scores = [accuracies(logits, labels)[self.task.metric] for logits in tested]
        return rates[scores.index(max(scores))]

    def train(self, lr: float, splits: Sequence[str]) -> tuple[Classifier, list[float]]:
        """Return a classifier trained on some splits, and the mean loss of each epoch."""
        rows = torch.cat([self.rows[split] for split in splits])
        self._check_classes(rows, " + ".join(splits))
        settings, compute, backbone = self.settings, self.context.compute, self.context.model
        images, seed = self.context.data.images, compute.seed
        samples = Augmented(images, self.task.targets, self._transform(), seed)
        batches = Batches(rows, settings.train_batch, settings.epochs, seed)
        warmup = round(settings.warmup_epochs * batches.per_epoch)
        device = choose_device(backbone, compute.device)
        dtype = autocast_dtype(settings.precision, device)
        with inference(backbone, device):
            width = embed(backbone, samples[0, int(rows[0])][0][None].to(device)).shape[1]
        # What the network draws (dropout) is seeded too.
        with seeded(seed_of(seed, "network"), device), _reproducible():
            model = Classifier(backbone, width, len(self.task.classes)).to(device).train()

            def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
                inputs = batch[0].to(device, memory_format=torch.channels_last)
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    logits = model(inputs).float()
                smoothing = settings.label_smoothing
                return cross_entropy(logits, batch[1].to(device), label_smoothing=smoothing)

            read = read_batches(
                samples, batches, workers=compute.workers, pin_memory=device.type == "cuda"
            )
            losses = train(
                loss_of,
                compute.bar(read, total=len(batches), unit="step", desc=f"fine-tuning, lr {lr:g}"),
                build_optimizer(model, lr, settings),
                lr=lr,
                schedule=lambda step: lr_fraction(step, warmup, len(batches)),
                advice="use a smaller one, or --precision fp32",
            )
        per_epoch = batches.per_epoch
        starts = range(0, len(losses), per_epoch)
        return model, [sum(losses[start : start + per_epoch]) / per_epoch for start in starts]

    def test(self, model: Classifier, split: str) -> Tensor:
        """Return the logits (N, C) of the images of a split."""
        with warnings.catch_warnings():  # its outputs are logits on purpose, not features
            warnings.filterwarnings("ignore", "Classifier does more")
            return self.context.extract(model, self.rows[split])

    def _transform(self) -> Any:
        """Return timm's training augmentation, at the size and statistics of evaluation."""
        settings, model = self.settings, self.context.model
        config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
        shape: Any = self.context.transform(self.context.data.images[0][0]).shape
        if shape[0] != len(config["mean"]):
            raise ConfigError(f"fine-tuning takes colour images, this model takes {tuple(shape)}.")
        return create_transform(
            input_size=tuple(shape),
            is_training=True,
            scale=(settings.min_scale, 1.0),
            hflip=settings.flip,
            color_jitter=settings.color_jitter,
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
        )

    def _check(self) -> None:
        count, name = len(self.task.classes), self.task.name
        if count < 2:
            raise DataError(f"task {name} has {count} classes; fine-tuning needs at least two.")
        for split, rows in self.rows.items():
            if not len(rows):
                raise DataError(f"task {name} has no {split} images.")
            low, high = (int(edge) for edge in self.task.targets[rows].aminmax())
            if low < 0 or high >= count:
                raise DataError(
                    f"task {name}: {split} labels are in [{low}, {high}], "
                    f"expected [0, {count - 1}]."
                )

    def _check_classes(self, rows: Tensor, splits: str) -> None:
        counts = torch.bincount(self.task.targets[rows], minlength=len(self.task.classes))
        empty = [self.task.classes[label] for label in (counts == 0).nonzero().flatten().tolist()]
        if empty:
            raise DataError(
                f"task {self.task.name}: classes without a {splits} image: {first_few(empty)}."
            )


@dataclass(frozen=True, kw_only=True)
class Finetune(Settings):
    """Fine-tuning: the whole network and a linear classifier, on all or some of the labels.

    The defaults follow Kornblith et al. (2019, arXiv 1805.08974): Nesterov momentum, cosine, crops
    and flips.

    Attributes:
        epochs: Passes over the training images.
        train_batch: Images per training step; an incomplete last batch of an epoch is dropped.
        optimizer: One of `timm.optim.list_optimizers()`.
        weight_decay: Weight decay of all weights but biases and normalisation.
        layer_decay: Learning rate of each layer relative to the one above it.
        warmup_epochs: Linear warm-up, part of `epochs`; then half a cosine down to 0.
        label_smoothing: Fraction of a label that is spread over all classes.
        min_scale: Smallest fraction of an image covered by a random resized crop.
        flip: Probability of a horizontal flip.
        color_jitter: Strength of the jitter of brightness, contrast and saturation.
        precision: fp32, bf16, or auto: bf16 for training where the hardware supports it.
        tasks: Classification tasks; by default all.
        labels: Fractions of the labels of every class to train and validate with.
        lr: Peak learning rate; of several, the best on validation images is used.
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
    tasks: tuple[str, ...] = ()
    labels: Annotated[tuple[float, ...], Range(0, 1, open_low=True)] = (1.0,)
    lr: Annotated[tuple[float, ...], POSITIVE] = (0.01,)

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        check_distinct("labels", self.labels)
        check_distinct("lr", self.lr)
        if self.tasks:
            check_distinct("tasks", self.tasks)
        if self.warmup_epochs > self.epochs:
            raise ConfigError(
                f"warmup_epochs must be at most epochs, {self.epochs}, got {self.warmup_epochs}."
            )

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return top-1, top-5 and mean per class on the test images of every task."""
        metrics: dict[str, dict[str, float]] = {}
        series: dict[str, list[float]] = {}
        counts, chosen, scores = [], [], []
        for task in self._tasks(context):
            metrics[task.name] = {}
            for fraction in self.labels:
                kind = "finetune" if fraction == 1 else f"finetune_{100 * fraction:g}%"
                run = _Run(self, context, task, fraction)
                lr = run.best_lr()
                model, losses = run.train(lr, ("train", "val"))
                rows = run.rows["test"]
                own = classification(
                    task.name, rows, task.targets[rows], run.test(model, "test"),
                    prefix=f"{kind}_", classes=task.classes,
                )  # fmt: skip
                scores.append(own)
                metrics[task.name] |= own.means()
                series[f"{task.name}: loss of {kind} by epoch"] = losses
                which = f"{task.name} {100 * fraction:g}% labels"
                counts.append(f"{which}: {run.count} images")
                chosen.append(f"{which}: {lr:g}")
        return Outcome(
            metrics=metrics,
            series=series,
            scores=tuple(scores),
            protocol={
                **self._protocol(context),
                "labels": "; ".join(counts),
                "chosen lr": "; ".join(chosen),
            },
        )

    def _tasks(self, context: EvalContext) -> Sequence[Task]:
        known = {task.name: task for task in context.data.tasks_of("classification")}
        for name in self.tasks:
            if name not in known:
                raise unknown_name(f"classification task of {context.data.name}", name, known)
        return [known[name] for name in self.tasks or known]

    def _protocol(self, context: EvalContext) -> dict[str, str]:
        device = choose_device(context.model, context.compute.device)
        dtype = autocast_dtype(self.precision, device)
        own = {"tasks", "labels", "precision"}
        settings = [f"{f.name}: {getattr(self, f.name)}" for f in fields(self) if f.name not in own]
        rule = "training + validation data, tested once after the last epoch in fp32"
        if len(self.lr) > 1:
            by = " or ".join(sorted({METRICS[task.metric] for task in self._tasks(context)}))
            rule += f"; lr by {by} on validation data (ties: smallest)"
        settings.append(f"momentum: 0.9, precision: {'fp32' if dtype is None else 'bf16'}")
        if min(self.labels) < 1:
            rule += (
                "; of the labels a fraction of each class, by a hash of seed and name, at least one"
            )
        return {"fine-tuning": ", ".join(settings), "final fit": rule}
