"""Semi-supervised classification with a linear probe."""

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated

from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.eval.base import EvalContext, Outcome, Task
from cassle_zoo.eval.choices import check_distinct
from cassle_zoo.eval.label_share import label_share
from cassle_zoo.eval.linear_probe import Labelled, linear_probe, protocol
from cassle_zoo.eval.solvers.logistic_regression import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class SemiSupervised:
    """Linear probe with a share of the labels: 1 % and 10 % of every class.

    Attributes:
        fractions: Shares of the labels that are known.
        draws: How often the labelled images are drawn; means and standard deviations are over
            draws.
        sweep_tolerance: As of the linear probe.
    """

    fractions: Annotated[tuple[float, ...], Range(0, 1, open_low=True)] = (0.01, 0.1)
    draws: Annotated[int, Range(1)] = 5
    sweep_tolerance: Annotated[float, Range(0, 1, open_low=True)] = TOLERANCE

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)
        check_distinct("fractions", self.fractions)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return mean accuracies over the draws and standard deviations of top-1."""
        metrics: dict[str, dict[str, float]] = {}
        counts = []
        tasks = context.data.tasks_of("classification")
        for task in tasks:
            values = metrics.setdefault(task.name, {})
            for fraction in self.fractions:
                found, known = self._measure(context, task, fraction)
                share = f"{100 * fraction:g}%"
                values |= {f"{share}_{name}": value for name, value in found.items()}
                counts.append(f"{task.name} {known} at {share}")
        rules = protocol(task.metric for task in tasks)
        text = ", ".join(f"{key}: {value}" for key, value in rules.items())
        words = {
            "known labels": "of train and of val the same share of every class (rounded, at least "
            f"one image), {self.draws} draws by hash of seed and name; no other label is used; "
            f"images: {', '.join(counts)}",
            "linear probe": f"{text}, tolerance of the sweep: {self.sweep_tolerance:g}",
        }
        return Outcome(metrics=metrics, protocol=words)

    def _measure(
        self, context: EvalContext, task: Task, fraction: float
    ) -> tuple[dict[str, float], int]:
        """Return the accuracies, and how many labels are known in one draw."""
        results = defaultdict(list)
        known = 0
        for draw in range(self.draws):
            train, val = (
                label_share(
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
                *(Labelled(features=context.features[r], labels=task.targets[r]) for r in rows),
                num_classes=len(task.classes),
                metric=task.metric,
                sweep_tolerance=self.sweep_tolerance,
            )
            results["top1"].append(probe.top1)
            results["mean_per_class"].append(probe.mean_per_class)
        top1 = results["top1"]
        return {
            "top1": statistics.fmean(top1),
            "top1_std": statistics.stdev(top1) if len(top1) > 1 else 0.0,
            "mean_per_class": statistics.fmean(results["mean_per_class"]),
        }, known
