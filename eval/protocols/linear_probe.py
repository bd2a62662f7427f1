"""Linear probe: the paper's protocol."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.common.devices import pick_device
from cassle_zoo.eval.base import EvalContext, Outcome, Task
from cassle_zoo.eval.linear_probe import METRICS, Labelled, ProbeResult, linear_probe, protocol
from cassle_zoo.eval.solvers.logistic_regression import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Linear probe: multinomial logistic regression on frozen features, w chosen on validation.

    Attributes:
        sweep_tolerance: Proven bound on how far (relatively) the objectives of the sweep over w
            are above their minima; the final fit always reaches 5e-7. A larger one is faster and
            can choose another w.
    """

    sweep_tolerance: Annotated[float, Range(0, 1, open_low=True)] = TOLERANCE

    def __post_init__(self) -> None:
        """Check the tolerance."""
        check_fields(self)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return accuracies of every classification task, and how validation chose w."""
        # float64 needs CPU or CUDA.
        device = pick_device(context.compute.device)
        features = context.features.to(device if device.type == "cuda" else "cpu")
        metrics: dict[str, dict[str, float]] = {}
        chosen: dict[str, float] = {}
        series: dict[str, list[float]] = {}
        tasks = context.data.tasks_of("classification")
        for task in tasks:
            probe = self._fit(features, task)
            values = {
                "linear_top1": probe.top1,
                "linear_top5": probe.top5,
                "linear_mean_per_class": probe.mean_per_class,
            }
            metrics[task.name] = {key: value for key, value in values.items() if value is not None}
            chosen[task.name] = probe.best_weight
            name = f"{task.name}: validation {METRICS[task.metric]} by w"
            series[name] = list(getattr(probe, f"validation_{task.metric}"))
        rules = protocol(task.metric for task in tasks)
        rules["tolerance of the sweep"] = self.sweep_tolerance
        words = {
            "linear probe": ", ".join(f"{key}: {value}" for key, value in rules.items()),
            "chosen w": ", ".join(f"{name} {weight:.3g}" for name, weight in chosen.items()),
        }
        return Outcome(metrics=metrics, protocol=words, series=series)

    def _fit(self, features: Tensor, task: Task) -> ProbeResult:
        def select(split: str) -> Labelled:
            rows = task.splits[split]
            return Labelled(features=features[rows], labels=task.targets[rows].to(features.device))

        parts = [select(split) for split in ("train", "val", "test")]
        return linear_probe(
            *parts,
            num_classes=len(task.classes),
            metric=task.metric,
            sweep_tolerance=self.sweep_tolerance,
        )
