"""Semi-supervised classification: a linear probe with few labels."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from cassle_zoo.common.config import Range
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.seeds import digest_of
from cassle_zoo.eval.base import EvalContext, Outcome, Settings, Task, check_distinct
from cassle_zoo.eval.protocols.linear_probe import Samples, linear_probe, protocol
from cassle_zoo.eval.scores import Scores
from cassle_zoo.eval.solvers.logistic_regression import TOLERANCE


def choose_labelled(
    rows: Tensor, labels: Tensor, fraction: float, *, seed: int = 0, names: Sequence[str] = ()
) -> Tensor:
    """Choose a fraction of the images of every class, at least one of each.

    A hash of seed and name puts the images in order, so the choice depends neither on how they are
    listed nor on the other classes, and smaller fractions are part of larger ones.

    Args:
        rows: (N,) int64 indices of images.
        labels: (N,) their classes.
        fraction: In (0, 1]; of each class, rounded to the nearest number of images.
        seed: Another seed chooses other images.
        names: Names of all images, by index; without them, the index is the name.

    Returns:
        (M,) int64: the chosen `rows`, in their order.

    Raises:
        ConfigError: If `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"the fraction of labels must be in (0, 1], got {fraction}.")
    queue: dict[int, list[tuple[bytes, int]]] = {}
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        place = digest_of(seed, names[row] if names else row)
        queue.setdefault(label, []).append((place, row))
    chosen: set[int] = set()
    for members in queue.values():
        count = max(1, math.floor(fraction * len(members) + 0.5))
        chosen.update(row for _, row in sorted(members)[:count])
    return torch.tensor([row for row in rows.tolist() if row in chosen], dtype=torch.long)


@dataclass(frozen=True, kw_only=True)
class SemiSupervised(Settings):
    """Linear probe with a fraction of the labels: 1 % and 10 % of every class.

    Attributes:
        fractions: Fractions of the labels that are known.
        draws: Number of draws of labelled images, for means and standard deviations.
        sweep_tolerance: See the linear probe.
    """

    fractions: Annotated[tuple[float, ...], Range(0, 1, open_low=True)] = (0.01, 0.1)
    draws: Annotated[int, Range(1)] = 5
    sweep_tolerance: Annotated[float, Range(0, 1, open_low=True)] = TOLERANCE

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        check_distinct("fractions", self.fractions)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return mean accuracies over the draws and, of several, standard deviations of top-1."""
        metrics: dict[str, dict[str, float]] = {}
        counts = []
        scores = []
        tasks = context.data.tasks_of("classification")
        for task in tasks:
            values = metrics.setdefault(task.name, {})
            right: dict[str, Tensor] = {}
            for fraction in self.fractions:
                found, known, mean_right = self._measure(context, task, fraction)
                percent = f"{100 * fraction:g}%"
                right |= dict.fromkeys((f"{percent}_top1", f"{percent}_mean_per_class"), mean_right)
                values |= {f"{percent}_{name}": value for name, value in found.items()}
                counts.append(f"{task.name} {known} at {percent}")
            test = task.splits["test"]
            scores.append(
                Scores(
                    task=task.name,
                    rows=test,
                    values=right,
                    by_class=tuple(name for name in right if name.endswith("mean_per_class")),
                    labels=task.targets[test],
                    classes=task.classes,
                )
            )
        words = {
            "known labels": "of train and of val the same fraction of every class (rounded, at "
            f"least one image), {self.draws} draws by hash of seed and name; no other label is "
            f"used; images: {', '.join(counts)}",
            "linear probe": protocol((task.metric for task in tasks), self.sweep_tolerance),
        }
        return Outcome(metrics=metrics, protocol=words, scores=tuple(scores))

    def _measure(
        self, context: EvalContext, task: Task, fraction: float
    ) -> tuple[dict[str, float], int, Tensor]:
        """Return the accuracies, the count of known labels, and (N,) how often images are right."""
        results = defaultdict(list)
        known = 0
        right = torch.zeros(len(task.splits["test"]), dtype=torch.float64)
        for draw in range(self.draws):
            train, val = (
                choose_labelled(
                    task.splits[name],
                    task.targets[task.splits[name]],
                    fraction,
                    seed=context.compute.seed * self.draws + draw,
                    names=context.data.names,
                )
                for name in ("train", "val")
            )
            known = len(train) + len(val)
            rows = (train, val, task.splits["test"])
            probe = linear_probe(
                *(Samples(context.features[r], task.targets[r]) for r in rows),
                num_classes=len(task.classes),
                names=task.classes,
                metric=task.metric,
                sweep_tolerance=self.sweep_tolerance,
            )
            hits = probe.test_logits.argmax(1).cpu() == task.targets[task.splits["test"]]
            right += hits.double() / self.draws
            results["top1"].append(probe.top1)
            results["mean_per_class"].append(probe.mean_per_class)
        top1 = results["top1"]
        spread = {"top1_std": statistics.stdev(top1)} if len(top1) > 1 else {}
        mean = statistics.fmean(results["mean_per_class"])
        found = {"top1": statistics.fmean(top1), **spread, "mean_per_class": mean}
        return found, known, right
