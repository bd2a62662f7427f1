"""Regularised multinomial logistic regression, solved to a proven distance from the optimum.

The objective is ``sum_i CE(x_i W + b, y_i) + w (|W|^2 + |b|^2)``. It is strongly convex with
modulus ``2 w``, so at gradient ``g`` the objective exceeds its minimum by at most
``|g|^2 / (4 w)``. Iteration ends when this bound, relative to the objective, is below a tolerance:
the result depends neither on where it started nor on the order of the samples.

Method: Newton steps in float64, each solved by conjugate gradients in float32. Coordinates are the
principal axes of the features (an orthogonal change of variables, which the regulariser does not
notice; with fewer samples than features the problem shrinks to the span of the samples). There
the Hessian is nearly diagonal, which preconditions it (`cassle_zoo.eval.solvers.logistic_hessian`). Along a
path of weights each fit starts from an extrapolation of the earlier ones.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cassle_zoo.eval.solvers.logistic_hessian import Hessian

TOLERANCE = 5e-7
"""Proven bound on the relative excess of the objective over its minimum."""

_MAX_NEWTON_STEPS = 100
_LOOSEST_CG_RESIDUAL = 0.1
_SAFETY = 0.8
_EXTRAPOLATION_POINTS = 3
_SHORTEST_STEP = 1e-10
_HARD = 60  # CG steps after which a better preconditioner pays for itself


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """One regularised fit.

    Attributes:
        weight: Regularisation weight w.
        objective: Value of the objective.
        excess: Proven bound of ``objective / minimum - 1``.
        coefficients: (D + 1, C) float64; the last row is the bias.
    """

    weight: float
    objective: float
    excess: float
    coefficients: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return the scores (N, C) in float64 of `features` (N, D)."""
        return features.double() @ self.coefficients[:-1] + self.coefficients[-1]


def fit_path(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    weights: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    start: Tensor | None = None,
) -> list[Fit]:
    """Fit for each regularisation weight.

    Args:
        features: (N, D), finite; computed with on its device.
        labels: (N,) integers in [0, `num_classes`).
        num_classes: C, at least 2.
        weights: Regularisation weights w > 0.
        tolerance: Bound on the relative excess of each objective over its minimum.
        start: (D + 1, C) coefficients to start the first fit from; only a matter of speed.

    Returns:
        One fit for each of `weights`, in their order. A fit that floating point does not let reach
        the tolerance is the best found, says so in its ``excess``, and warns.
    """
    problem = _Problem(features, labels, num_classes)
    theta = problem.to_axes(start)
    fits: dict[float, Fit] = {}
    path: list[tuple[float, Tensor]] = []
    for weight in sorted(set(weights), reverse=True):
        position = math.log(weight)
        if path:
            theta = _extrapolate(path[-_EXTRAPOLATION_POINTS:], position)
        theta, objective, excess = _minimise(problem, theta, weight, tolerance)
        if not excess <= tolerance:
            warnings.warn(
                f"logistic regression, w={weight:g}: the objective may exceed its minimum by a "
                f"factor of 1 + {excess:.0e}, wanted {tolerance:.0e}; are the features huge?",
                stacklevel=2,
            )
        path.append((position, theta))
        fits[weight] = Fit(
            weight=weight,
            objective=objective,
            excess=excess,
            coefficients=problem.axes @ theta.T,
        )
    return [fits[weight] for weight in weights]


class _Problem:
    """The samples in principal axes, and what depends on them."""

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        ones = torch.ones(len(features), 1, dtype=torch.float64, device=features.device)
        samples = torch.cat([features.double(), ones], dim=1)
        self.axes = _principal_axes(samples)
        self.samples = samples @ self.axes
        self.samples32 = self.samples.float()
        self.squares32 = self.samples32.square()
        self.labels = labels
        self.targets = torch.nn.functional.one_hot(labels, num_classes).double().T.contiguous()
        self.hard = False

    def to_axes(self, coefficients: Tensor | None) -> Tensor:
        if coefficients is not None:
            projected: Tensor = coefficients.T @ self.axes
            return projected
        return self.axes.new_zeros(len(self.targets), self.axes.shape[1])

    def evaluate(self, theta: Tensor, weight: float) -> tuple[float, Tensor]:
        """Return the objective and the predicted probabilities (C, N)."""
        log_p = torch.log_softmax(theta @ self.samples.T, dim=0)
        loss = -log_p.gather(0, self.labels[None]).sum() + weight * theta.square().sum()
        return float(loss), log_p.exp()

    def gradient(self, theta: Tensor, probabilities: Tensor, weight: float) -> Tensor:
        gradient: Tensor = (probabilities - self.targets) @ self.samples + 2 * weight * theta
        return gradient

    def newton_step(
        self, gradient: Tensor, probabilities: Tensor, weight: float, residual: float
    ) -> Tensor:
        """Solve ``Hessian @ step = -gradient`` to a relative `residual`."""
        hessian = Hessian(self.samples32, self.squares32, probabilities, weight, hard=self.hard)
        step, iterations = hessian.solve(-gradient, residual)
        self.hard = self.hard or iterations > _HARD
        return step


def _principal_axes(samples: Tensor) -> Tensor:
    """Return orthonormal columns that span the rows of `samples` and diagonalise their Gram."""
    if len(samples) >= samples.shape[1]:
        axes: Tensor = torch.linalg.eigh(samples.T @ samples).eigenvectors
        return axes
    span = torch.linalg.qr(samples.T).Q
    inner = samples @ span
    combined: Tensor = span @ torch.linalg.eigh(inner.T @ inner).eigenvectors
    return combined


def _extrapolate(path: Sequence[tuple[float, Tensor]], position: float) -> Tensor:
    """Evaluate the polynomial through the (position, value) pairs of `path`."""
    total = torch.zeros_like(path[0][1])
    for own, value in path:
        factor = math.prod((position - other) / (own - other) for other, _ in path if other != own)
        total += factor * value
    return total


def _minimise(
    problem: _Problem, theta: Tensor, weight: float, tolerance: float
) -> tuple[Tensor, float, float]:
    objective, probabilities = problem.evaluate(theta, weight)
    gradient = problem.gradient(theta, probabilities, weight)
    for _ in range(_MAX_NEWTON_STEPS):
        excess = _excess(objective, gradient, weight)
        if excess <= tolerance:
            break
        # How much smaller the gradient must get; a bit more, as Newton's model is not exact.
        needed = min(0.5, _SAFETY * math.sqrt(tolerance / excess))
        residual = needed if needed > _LOOSEST_CG_RESIDUAL**2 else _LOOSEST_CG_RESIDUAL
        step = problem.newton_step(gradient, probabilities, weight, residual)
        slope = float((gradient * step).sum())
        length = 1.0
        while True:
            moved = theta + length * step
            value, probabilities = problem.evaluate(moved, weight)
            gradient = problem.gradient(moved, probabilities, weight)
            if value <= objective + 1e-4 * length * slope:
                break
            # Where rounding hides the decrease, slopes still show it (Hager and Zhang, 2005).
            hidden = value <= objective * (1 + 1e-6)
            if hidden and abs(float((gradient * step).sum())) <= 0.8 * abs(slope):
                break
            length /= 2
            if length < _SHORTEST_STEP:
                return theta, objective, excess
        theta, objective = moved, value
    return theta, objective, excess


def _excess(objective: float, gradient: Tensor, weight: float) -> float:
    """Bound the relative excess of `objective` over the minimum, by strong convexity."""
    slack = float(gradient.square().sum()) / (4 * weight)
    return slack / (objective - slack) if slack < objective else math.inf
