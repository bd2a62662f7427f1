"""Linear regression on frozen features, with R².

The paper fits with an L1 loss by gradient descent and reports the squared correlation of a line
through the predictions. Here it is ridge regression, which has a closed form for every
penalty and any number of samples, and whose loss is the one that R² measures: the
result is an exact optimum, independent of seed and order. The mean absolute error, the paper's
loss, is reported as well.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cassle_zoo.eval.base import EvalContext, Outcome
from cassle_zoo.eval.metrics import r2_scores
from cassle_zoo.eval.protocols.linear_probe import L2_GRID, Samples
from cassle_zoo.eval.scores import Scores

PROTOCOL = (
    "features: not normalised, objective: sum of squared errors + w * |weight|^2, bias free (the "
    "paper: L1 loss), w: 45 log-spaced values in [1e-6, 1e5], selection: R2 on validation data, "
    "ties: smallest w, final_fit: train + validation data, tested once, R2: 1 - SS_res / SS_tot "
    "on test data, mean over outputs"
)


@dataclass(frozen=True, kw_only=True)
class RegressionResult:
    """Result of a regression on test data.

    Attributes:
        r2: Mean over the outputs of 1 - SS_res / SS_tot; at most 1, negative if worse than the
            mean of the test targets.
        r2_of_outputs: R² of each output.
        mean_absolute_error: Over images and outputs, in the targets' unit.
        best_l2: The chosen w.
        validation_r2: R² on the validation data for each of `L2_GRID`.
        predicted: (N, K) of the test data.
    """

    r2: float
    r2_of_outputs: tuple[float, ...]
    mean_absolute_error: float
    best_l2: float
    validation_r2: tuple[float, ...]
    predicted: Tensor = field(compare=False, repr=False)


def linear_regression(train: Samples, val: Samples, test: Samples) -> RegressionResult:
    """Measure how well targets are predicted linearly from features.

    Args:
        train: Samples to fit.
        val: Samples to choose w on.
        test: Samples to report on.

    Raises:
        DataError: If shapes do not fit, values are not finite, there are no samples, or a target
            is constant on validation or test data.
    """
    width, outputs = train.features.shape[-1], train.targets.shape[-1]
    for name, part in {"training": train, "validation": val, "test": test}.items():
        part.check(name, width, (outputs,))
    ridge = _Ridge(train)
    scores = tuple(
        float(r2_scores(ridge.predict(val.features, l2), val.targets).mean()) for l2 in L2_GRID
    )
    best = max(zip(scores, L2_GRID, strict=True), key=lambda pair: (pair[0], -pair[1]))[1]
    predicted = _Ridge(train + val).predict(test.features, best)
    found = r2_scores(predicted, test.targets)
    return RegressionResult(
        r2=float(found.mean()),
        r2_of_outputs=tuple(found.tolist()),
        mean_absolute_error=float((predicted - test.targets.double()).abs().mean()),
        best_l2=best,
        validation_r2=scores,
        predicted=predicted,
    )


class _Ridge:
    """Ridge regressions for all w at once, from one singular value decomposition in float64.

    Unlike `cassle_zoo.eval.solvers.ridge` it finds the rank of the features, since w may be tiny.
    """

    def __init__(self, samples: Samples) -> None:
        features, targets = samples.features.double(), samples.targets.double()
        self.centre, self.bias = features.mean(0), targets.mean(0)
        # Features and targets in a basis of their span, which is no taller than wide.
        both = torch.cat([features - self.centre, targets - self.bias], dim=1)
        small = torch.linalg.qr(both, mode="r").R
        left, values, right = torch.linalg.svd(small[:, : features.shape[1]], full_matrices=False)
        # Without directions that are only rounding error.
        found = values > values.max() * max(features.shape) * torch.finfo(values.dtype).eps
        self.values, self.right = values[found], right[found]
        self.projected = left[:, found].T @ small[:, features.shape[1] :]

    def predict(self, features: Tensor, l2: float) -> Tensor:
        shrunk = (self.values / (self.values.square() + l2))[:, None] * self.projected
        predicted: Tensor = (features.double() - self.centre) @ (self.right.T @ shrunk) + self.bias
        return predicted


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Linear regression on frozen features: R² and absolute error of keypoints and the like."""

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return R² and mean absolute error of every regression task."""
        metrics: dict[str, dict[str, float]] = {}
        series: dict[str, list[float]] = {}
        chosen: dict[str, float] = {}
        scores = []
        for task in context.data.tasks_of("regression"):
            found = linear_regression(*Samples.of(context.features, task))
            metrics[task.name] = {"r2": found.r2, "mae": found.mean_absolute_error}
            chosen[task.name] = found.best_l2
            test = task.splits["test"]
            targets = task.targets[test].double()
            scores.append(
                Scores(
                    task=task.name,
                    rows=test,
                    values={"mae": (found.predicted - targets).abs().mean(1)},
                    outputs=found.predicted,
                    targets=targets,
                )
            )
            series[f"{task.name}: validation R2 by w"] = list(found.validation_r2)
            series[f"{task.name}: R2 of each output"] = list(found.r2_of_outputs)
        protocol = {
            "regression": PROTOCOL,
            "chosen w": ", ".join(f"{name} {l2:.3g}" for name, l2 in chosen.items()),
        }
        return Outcome(metrics=metrics, protocol=protocol, series=series, scores=tuple(scores))
