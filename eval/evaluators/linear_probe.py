"""Linear probe: the paper's protocol."""

from dataclasses import dataclass

from torch import Tensor

from cassle_zoo.devices import pick_device
from cassle_zoo.errors import ConfigError
from cassle_zoo.eval.base import Outcome, Subject, Task
from cassle_zoo.eval.linear_probe import PROTOCOL, Labelled, ProbeResult, linear_probe
from cassle_zoo.eval.logistic_regression import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Linear probe: multinomial logistic regression on frozen features, w chosen on validation.

    Attributes:
        sweep_tolerance: Proven bound on how far (relatively) the objectives of the sweep over w
            are above their minima; the final fit always reaches 5e-7. A larger one is faster and
            can choose another w.
    """

    sweep_tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        """Check the tolerance."""
        if not 0 < self.sweep_tolerance < 1:
            raise ConfigError(
                f"sweep_tolerance must be between 0 and 1, got {self.sweep_tolerance}."
            )

    def evaluate(self, subject: Subject) -> Outcome:
        """Return accuracies of every classification task, and how validation chose w."""
        # float64 needs CPU or CUDA.
        device = pick_device(subject.compute.device)
        features = subject.features.to(device if device.type == "cuda" else "cpu")
        metrics: dict[str, dict[str, float]] = {}
        chosen: dict[str, float] = {}
        series: dict[str, list[float]] = {}
        for task in subject.data.tasks_of("classification"):
            probe = self._fit(features, task)
            values = {
                "linear_top1": probe.top1,
                "linear_top5": probe.top5,
                "linear_mean_per_class": probe.mean_per_class,
            }
            metrics[task.name] = {key: value for key, value in values.items() if value is not None}
            chosen[task.name] = probe.best_weight
            series[f"{task.name}: validation top-1 by w"] = list(probe.validation_top1)
        rules = {**PROTOCOL, "tolerance of the sweep": self.sweep_tolerance}
        protocol = {
            "linear probe": ", ".join(f"{key}: {value}" for key, value in rules.items()),
            "chosen w": ", ".join(f"{name} {weight:.3g}" for name, weight in chosen.items()),
        }
        return Outcome(metrics=metrics, protocol=protocol, series=series)

    def _fit(self, features: Tensor, task: Task) -> ProbeResult:
        def select(split: str) -> Labelled:
            rows = task.splits[split]
            return Labelled(features=features[rows], labels=task.targets[rows].to(features.device))

        parts = [select(split) for split in ("train", "val", "test")]
        return linear_probe(
            *parts, num_classes=len(task.classes), sweep_tolerance=self.sweep_tolerance
        )
