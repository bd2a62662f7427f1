"""Regression of numbers such as keypoints."""

from dataclasses import dataclass

from cassle_zoo.eval.base import EvalContext, Outcome
from cassle_zoo.eval.regression import PROTOCOL, Measured, linear_regression


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Linear regression on frozen features: R² and absolute error of keypoints and the like."""

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return R² and mean absolute error of every regression task."""
        metrics: dict[str, dict[str, float]] = {}
        series: dict[str, list[float]] = {}
        chosen: dict[str, float] = {}
        for task in context.data.tasks_of("regression"):
            parts = [
                Measured(
                    features=context.features[task.splits[split]],
                    targets=task.targets[task.splits[split]],
                )
                for split in ("train", "val", "test")
            ]
            found = linear_regression(*parts)
            metrics[task.name] = {"r2": found.r2, "mae": found.mean_absolute_error}
            chosen[task.name] = found.best_weight
            series[f"{task.name}: validation R2 by w"] = list(found.validation_r2)
            series[f"{task.name}: R2 of each output"] = list(found.r2_of_outputs)
        protocol = {
            "regression": ", ".join(f"{key}: {value}" for key, value in PROTOCOL.items()),
            "chosen w": ", ".join(f"{name} {weight:.3g}" for name, weight in chosen.items()),
        }
        return Outcome(metrics=metrics, protocol=protocol, series=series)
