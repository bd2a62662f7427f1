"""Semi-supervised classification with a linear probe."""

import statistics
from collections import defaultdict
from dataclasses import dataclass

from cassle_zoo.errors import ConfigError
from cassle_zoo.eval.base import Outcome, Subject, Task
from cassle_zoo.eval.label_share import label_share
from cassle_zoo.eval.linear_probe import PROTOCOL, Labelled, linear_probe
from cassle_zoo.eval.logistic_regression import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class SemiSupervised:
    """Linear probe with a share of the labels: 1 % and 10 % of every class.

    Attributes:
        fractions: Shares of the labels that are known.
        draws: How often the labelled pictures are drawn; means and standard deviations are over
            draws.
        sweep_tolerance: As of the linear probe.
    """

    fractions: tuple[float, ...] = (0.01, 0.1)
    draws: int = 5
    sweep_tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ConfigError(f"fractions must be above 0 and at most 1, got {self.fractions}.")
        if self.draws < 1:
            raise ConfigError(f"draws must be at least 1, got {self.draws}.")

    def evaluate(self, subject: Subject) -> Outcome:
        """Return mean accuracies over the draws and standard deviations of top-1."""
        metrics: dict[str, dict[str, float]] = {}
        counts = []
        for task in subject.data.tasks_of("classification"):
            values = metrics.setdefault(task.name, {})
            for fraction in self.fractions:
                found, known = self._measure(subject, task, fraction)
                share = f"{100 * fraction:g}%"
                values |= {f"{share}_{name}": value for name, value in found.items()}
                counts.append(f"{task.name} {known} at {share}")
        rules = ", ".join(f"{key}: {value}" for key, value in PROTOCOL.items())
        protocol = {
            "known labels": "of train and of val the same share of every class (rounded, at least "
            f"one picture), {self.draws} draws by hash of seed and name; no other label is used; "
            f"pictures: {', '.join(counts)}",
            "linear probe": f"{rules}, tolerance of the sweep: {self.sweep_tolerance:g}",
        }
        return Outcome(metrics=metrics, protocol=protocol)

    def _measure(
        self, subject: Subject, task: Task, fraction: float
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
                    seed=subject.compute.seed * self.draws + draw,
                    names=subject.data.names,
                )
                for name in ("train", "val")
            )
            known = len(train) + len(val)
            rows = (train, val, task.splits["test"])
            probe = linear_probe(
                *(Labelled(features=subject.features[r], labels=task.targets[r]) for r in rows),
                num_classes=len(task.classes),
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
