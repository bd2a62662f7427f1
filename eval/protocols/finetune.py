"""Fine-tuning, with all labels or a few (semi-supervised)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any

import torch
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import Subset

from cassle_zoo.common.config import POSITIVE, Range
from cassle_zoo.common.devices import autocast_dtype
from cassle_zoo.common.errors import ConfigError, DataError, unknown_name
from cassle_zoo.eval.base import EvalContext, Outcome, Task
from cassle_zoo.eval.choices import check_distinct
from cassle_zoo.eval.finetune import Augmented, Classifier, TrainSettings, finetune
from cassle_zoo.eval.label_share import label_share
from cassle_zoo.eval.linear_probe import METRICS
from cassle_zoo.eval.metrics import accuracies
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.inference import choose_device

_SHOWN = 10
_MIN_CLASSES = 2


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainSettings):
    """Fine-tuning: the whole network trained with a linear classifier, by a share of the labels.

    Attributes:
        tasks: Classification tasks to measure; by default all.
        labels: Shares of the labels, of every class, that training and validation use.
        lr: Peak learning rate; of several, the one that is best on validation when trained without.
    """

    tasks: tuple[str, ...] = ()
    labels: Annotated[tuple[float, ...], Range(0, 1, open_low=True)] = (1.0,)
    lr: Annotated[tuple[float, ...], POSITIVE] = (0.01,)

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        check_distinct("labels", self.labels)
        check_distinct("lr", self.lr)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return top-1, top-5 and mean per class on the test images of every task."""
        metrics: dict[str, dict[str, float]] = {}
        series: dict[str, list[float]] = {}
        counts, chosen = [], []
        for task in self._tasks(context):
            metrics[task.name] = {}
            for share in self.labels:
                kind = "finetune" if share == 1 else f"finetune_{100 * share:g}%"
                run = _Run(self, context, task, share)
                lr = run.best_lr()
                model, losses = run.train(lr, ("train", "val"))
                values = run.test(model, "test")
                metrics[task.name] |= {f"{kind}_{name}": value for name, value in values.items()}
                series[f"{task.name}: loss of {kind} by epoch"] = losses
                which = f"{task.name} {100 * share:g}% labels"
                counts.append(f"{which}: {run.count} images")
                chosen.append(f"{which}: {lr:g}")
        return Outcome(
            metrics=metrics,
            series=series,
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
        own = {"tasks", "labels", "lr", "precision"}
        settings = [f"{f.name}: {getattr(self, f.name)}" for f in fields(self) if f.name not in own]
        rule = "training + validation data, tested once after the last epoch in fp32"
        if len(self.lr) > 1:
            tried = ", ".join(f"{rate:g}" for rate in self.lr)
            by = " or ".join(sorted({METRICS[task.metric] for task in self._tasks(context)}))
            rule += f"; lr of {tried} by {by} on validation data (ties: smallest)"
        settings.append(f"momentum: 0.9, precision: {'fp32' if dtype is None else 'bf16'}")
        if min(self.labels) < 1:
            rule += (
                "; of the labels a share of each class, by a hash of seed and name, at least one"
            )
        return {"fine-tuning": ", ".join(settings), "final fit": rule}


class _Run:
    """A task with a share of its labels."""

    def __init__(self, settings: Finetune, context: EvalContext, task: Task, share: float) -> None:
        model = context.model
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(f"{context.source.name} has no weights that could be fine-tuned.")
        self.settings = settings
        self.context = context
        self.task = task
        choose = partial(
            label_share, share=share, seed=context.compute.seed, names=context.data.names
        )
        self.rows = {"test": task.splits["test"]}
        for split in ("train", "val"):
            rows = task.splits[split]
            self.rows[split] = choose(rows, task.targets[rows])
        self._check()

    @property
    def count(self) -> int:
        """Number of labelled images."""
        return len(self.rows["train"]) + len(self.rows["val"])

    def best_lr(self) -> float:
        rates = sorted(self.settings.lr)
        if len(rates) == 1:
            return rates[0]
        metric = self.task.metric
        scores = [self.test(self.train(lr, ("train",))[0], "val")[metric] for lr in rates]
        return rates[scores.index(max(scores))]

    def train(self, lr: float, splits: Sequence[str]) -> tuple[Classifier, list[float]]:
        rows = torch.cat([self.rows[split] for split in splits])
        self._check_classes(rows, " + ".join(splits))
        compute, data = self.context.compute, self.context.data
        return finetune(
            self.context.model,
            Augmented(data.images, self.task.targets, self._transform(), compute.seed),
            rows,
            classes=len(self.task.classes),
            lr=lr,
            settings=self.settings,
            workers=compute.workers,
            device=compute.device,
            progress=compute.progress,
        )

    def test(self, model: Classifier, split: str) -> dict[str, float]:
        rows, compute = self.rows[split], self.context.compute
        found = extract_features(
            model,
            Subset(self.context.data.images, rows.tolist()),  # type: ignore[arg-type]
            transform=self.context.transform,
            batch_size=compute.batch_size,
            num_workers=compute.workers,
            device=compute.device,
            progress=compute.progress,
        )
        if found.skipped:
            raise DataError(f"{self.context.data.name}: {found.skipped[0].reason}")
        return accuracies(found.features, self.task.targets[rows])

    def _transform(self) -> Any:
        """Return timm's augmentation for training, to the size and statistics of evaluation."""
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
        if count < _MIN_CLASSES:
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
            shown = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
            raise DataError(f"task {self.task.name}: classes without a {splits} image: {shown}.")
