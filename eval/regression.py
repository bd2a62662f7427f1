"""Linear regression on frozen features, with R².

The paper fits with an L1 loss by gradient descent and reports the squared correlation of a line
through the predictions. Here it is ridge regression, which has a closed form for every
regularisation weight and any number of samples, and whose loss is the one that R² measures: the
result is an exact optimum, independent of seed and order. The mean absolute error, the paper's
loss, is reported beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.linear_probe import WEIGHT_GRID

PROTOCOL: dict[str, object] = {
    "features": "not normalised",
    "objective": "sum of squared errors + w * |weight|^2, bias free (the paper: L1 loss)",
    "w": "45 log-spaced values in [1e-6, 1e5]",
    "selection": "R2 on validation data, ties: smallest w",
    "final_fit": "train + validation data, tested once",
    "R2": "1 - SS_res / SS_tot on test data, mean over outputs",
}

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Features with values to predict.

    Attributes:
        features: (N, D), not normalised.
        targets: (N, K).
    """

    features: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class RegressionResult:
    """What a regression measured on test data.

    Attributes:
        r2: Mean over the outputs of 1 - SS_res / SS_tot; at most 1, negative if worse than the
            mean of the test targets.
        r2_of_outputs: Of each output.
        mean_absolute_error: Over images and outputs, in the targets' unit.
        best_weight: The chosen w.
        weights: All w that were tried.
        validation_r2: R² on the validation data for each of `weights`.
    """

    r2: float
    r2_of_outputs: tuple[float, ...]
    mean_absolute_error: float
    best_weight: float
    weights: tuple[float, ...]
    validation_r2: tuple[float, ...]


def linear_regression(
    train: Measured, val: Measured, test: Measured, *, weights: Sequence[float] = WEIGHT_GRID
) -> RegressionResult:
    """Measure how well targets are linear functions of features.

    Args:
        train: What is fitted to.
        val: What w is chosen on.
        test: What is reported on.
        weights: Regularisation weights w to try.

    Raises:
        DataError: If shapes do not fit, values are not finite, there are no samples, or a target
            is constant on validation or test data (R² is then undefined).
    """
    if not weights or not all(weight > 0 for weight in weights):
        raise DataError(f"regularisation weights must be positive, at least one: {weights!r}.")
    width = (train.features.shape[-1], train.targets.shape[-1])
    for name, part in {"training": train, "validation": val, "test": test}.items():
        _check(name, part, width)
    for name, part in {"validation": val, "test": test}.items():
        _check_spread(name, part.targets)
    ridge = _Ridge(train.features, train.targets)
    scores = tuple(
        float(r2_of_outputs(ridge.predict(val.features, weight), val.targets).mean())
        for weight in weights
    )
    best = max(zip(scores, weights, strict=True), key=lambda pair: (pair[0], -pair[1]))[1]
    final = _Ridge(
        torch.cat([train.features, val.features]), torch.cat([train.targets, val.targets])
    )
    predicted = final.predict(test.features, best)
    outputs = r2_of_outputs(predicted, test.targets)
    return RegressionResult(
        r2=float(outputs.mean()),
        r2_of_outputs=tuple(outputs.tolist()),
        mean_absolute_error=float((predicted - test.targets.double()).abs().mean()),
        best_weight=best,
        weights=tuple(weights),
        validation_r2=scores,
    )


def r2_of_outputs(predicted: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - SS_res / SS_tot of each output: (K,) float64, for (N, K) and (N, K)."""
    targets = targets.double()
    residual = (predicted.double() - targets).square().sum(0)
    total = (targets - targets.mean(0)).square().sum(0)
    return 1 - residual / total


class _Ridge:
    """The fits for all w at once, from one singular value decomposition in float64."""

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        features, targets = features.double(), targets.double()
        self.centre, self.bias = features.mean(0), targets.mean(0)
        # Features and targets in coordinates that span them: no taller than wide.
        both = torch.cat([features - self.centre, targets - self.bias], dim=1)
        small = torch.linalg.qr(both, mode="r").R
        left, values, right = torch.linalg.svd(small[:, : features.shape[1]], full_matrices=False)
        # Directions that are nothing but rounding.
        kept = values > values.max() * max(features.shape) * torch.finfo(values.dtype).eps
        self.values, self.right = values[kept], right[kept]
        self.projected = left[:, kept].T @ small[:, features.shape[1] :]

    def predict(self, features: Tensor, weight: float) -> Tensor:
        shrunk = (self.values / (self.values.square() + weight))[:, None] * self.projected
        predicted: Tensor = (features.double() - self.centre) @ (self.right.T @ shrunk) + self.bias
        return predicted


def _check(name: str, part: Measured, width: tuple[int, int]) -> None:
    shapes = tuple(part.features.shape), tuple(part.targets.shape)
    count = len(part.features)
    if shapes != ((count, width[0]), (count, width[1])):
        raise DataError(
            f"{name} features {shapes[0]} and targets {shapes[1]} do not fit: expected "
            f"(N, {width[0]}) and (N, {width[1]})."
        )
    if not count:
        raise DataError(f"there are no {name} samples.")
    for kind, values in {"feature": part.features, "target": part.targets}.items():
        bad = int((~torch.isfinite(values)).any(1).sum())
        if bad:
            raise DataError(f"{bad} of {count} {name} {kind} vectors are NaN or infinite.")


def _check_spread(name: str, targets: Tensor) -> None:
    constant = (targets == targets[0]).all(0).nonzero().flatten().tolist()
    if constant:
        shown = ", ".join(map(str, constant[:_SHOWN])) + (", ..." if len(constant) > _SHOWN else "")
        raise DataError(
            f"outputs {shown} are constant on the {len(targets)} {name} samples, so their R2 is "
            "undefined."
        )
