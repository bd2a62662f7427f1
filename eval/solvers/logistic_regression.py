"""Regularised multinomial logistic regression, solved to a proven distance from the optimum.

The objective is ``sum_i CE(x_i W + b, y_i) + w (|W|^2 + |b|^2)``. It is strongly convex with
modulus ``2 w``, so at gradient ``g`` the objective exceeds its minimum by at most
``|g|^2 / (4 w)``. Iteration ends when this bound, relative to the objective, is below a tolerance:
the result depends neither on where it started nor on the order of the samples.

Method: Newton steps in float64, each solved by conjugate gradients in float32. Coordinates are the
principal axes of the features (an orthogonal change of variables, which leaves the regulariser
unchanged; with fewer samples than features the problem shrinks to the span of the samples). There
the Hessian is nearly diagonal, which preconditions it. Along a path of penalties each fit starts
from an extrapolation of the earlier ones.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 5e-7
"""Proven bound on the relative excess of the objective over its minimum."""

_MAX_NEWTON_STEPS = 100
_LOOSEST_CG_RESIDUAL = 0.1
_SAFETY = 0.8
_EXTRAPOLATION_POINTS = 3
_SHORTEST_STEP = 1e-10
_MAX_CG_STEPS = 2000
_HARD = 60  # CG steps after which a better preconditioner pays for itself
_RANK = 64
_FLOOR = 0.01
_CHUNK = 4096  # rows converted to float64 at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """One regularised fit.

    Attributes:
        l2: Penalty w.
        objective: Value of the objective.
        excess: Proven bound on ``objective / minimum - 1``.
        coefficients: (D + 1, C) float64; the last row is the bias.
    """

    l2: float
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
    l2_grid: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    start: Tensor | None = None,
    on_fit: Callable[[], object] = lambda: None,
) -> list[Fit]:
    """Fit for each penalty of a grid.

    Args:
        features: (N, D), finite; computed with on its device.
        labels: (N,) integers in [0, `num_classes`).
        num_classes: C, at least 2.
        l2_grid: Penalties w > 0.
        tolerance: Bound on the relative excess of each objective over its minimum.
        start: (D + 1, C) coefficients to start the first fit from; only a matter of speed.
        on_fit: Called after every fit.

    Returns:
        One fit for each of `l2_grid`, in its order. A fit that floating point does not let reach
        the tolerance is the best found, and says so in its ``excess``.
    """
    problem = _Problem(features, labels, num_classes)
    theta = problem.axes.new_zeros(num_classes, problem.axes.shape[1])
    if start is not None:
        theta = start.T @ problem.axes
    fits: dict[float, Fit] = {}
    path: list[tuple[float, Tensor]] = []
    for l2 in sorted(set(l2_grid), reverse=True):
        position = math.log(l2)
        if path:
            theta = _extrapolate(path[-_EXTRAPOLATION_POINTS:], position)
        theta, objective, excess = _minimise(problem, theta, l2, tolerance)
        path.append((position, theta))
        coefficients = problem.axes @ theta.T
        fits[l2] = Fit(l2=l2, objective=objective, excess=excess, coefficients=coefficients)
        on_fit()
    return [fits[l2] for l2 in l2_grid]


class _Problem:
    """The samples, what depends on them, and their principal axes.

    Only the features as given and a float32 copy in principal axes are held; products in float64
    convert a chunk at a time.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        self.features = features
        self.axes = _principal_axes(features)
        self.samples32 = torch.cat([(own @ self.axes).float() for own in _with_ones(features)])
        self.targets = torch.nn.functional.one_hot(labels, num_classes).double().T.contiguous()
        self.labels = labels
        self.hard = False

    def evaluate(self, theta: Tensor, l2: float) -> tuple[float, Tensor]:
        """Return the objective and the predicted probabilities (C, N)."""
        weights = theta @ self.axes.T
        scores = torch.cat([weights @ own.T for own in _with_ones(self.features)], dim=1)
        log_p = torch.log_softmax(scores, dim=0)
        loss = -log_p.gather(0, self.labels[None]).sum() + l2 * theta.square().sum()
        return float(loss), log_p.exp()

    def gradient(self, theta: Tensor, probabilities: Tensor, l2: float) -> Tensor:
        residual = probabilities - self.targets
        parts = zip(residual.split(_CHUNK, dim=1), _with_ones(self.features), strict=True)
        total = sum((own @ samples for own, samples in parts), theta.new_zeros(()))
        return total @ self.axes + 2 * l2 * theta

    def newton_step(
        self, gradient: Tensor, probabilities: Tensor, l2: float, residual: float
    ) -> Tensor:
        """Solve ``Hessian @ step = -gradient`` to a relative `residual`."""
        hessian = _Hessian(self.samples32, probabilities, l2, hard=self.hard)
        step, iterations = hessian.solve(-gradient, residual)
        self.hard = self.hard or iterations > _HARD
        return step


class _Hessian:
    """The Hessian at one point, by its products with vectors; never formed, and in float32.

    It is the sum over samples of ``x x^T (kron) S`` with ``S = diag(p) - p p^T``, plus ``2 w I``.
    Vectors are (C, D), a row per class: products with few columns would take 1.4 times as long.
    """

    def __init__(
        self,
        samples: Tensor,
        probabilities: Tensor,
        l2: float,
        *,
        hard: bool,
    ) -> None:
        # `samples` are (N, D) float32 in their principal axes, `probabilities` (C, N) float64;
        # `hard` asks for the preconditioner that takes longer to build.
        self.samples = samples
        self.l2 = l2
        self.p = probabilities.float()
        self.likeliest = probabilities.argmax(0, keepdim=True)
        build = _precondition_by_class if hard else _precondition_diagonally
        self.precondition = build(samples, probabilities, l2)

    def multiply(self, direction: Tensor) -> Tensor:
        """Multiply with (C, D)."""
        scores = direction @ self.samples.T
        # Relative to the likeliest class: p near 1 cancels, in float32 to noise.
        scores -= scores.gather(0, self.likeliest)
        scores -= (self.p * scores).sum(0, keepdim=True)
        scores *= self.p
        return torch.addmm(direction, scores, self.samples, beta=2 * self.l2)

    def solve(self, target: Tensor, residual: float) -> tuple[Tensor, int]:
        """Solve for a target (C, D) by preconditioned conjugate gradients.

        Returns the solution in float64, whose residual is that fraction of the target's norm, and
        the number of steps.
        """
        norm = target.norm()
        r = (target / norm).float()
        solution = torch.zeros_like(r)
        z = self.precondition(r)
        direction, rz = z, (r * z).sum()
        steps = 0
        while steps < _MAX_CG_STEPS:
            steps += 1
            product = self.multiply(direction)
            length = rz / (direction * product).sum()
            solution += length * direction
            r -= length * product
            if float(r.norm()) <= residual:
                break
            z = self.precondition(r)
            rz, previous = (r * z).sum(), rz
            direction = z + (rz / previous) * direction
        return solution.double() * norm, steps


def _precondition_diagonally(
    samples: Tensor, probabilities: Tensor, l2: float
) -> Callable[[Tensor], Tensor]:
    """Divide by the Hessian's diagonal in the eigenvectors of the mean S.

    They account for classes that are confused with each other.
    """
    mean_s = torch.diag(probabilities.sum(1)) - probabilities @ probabilities.T
    mixing = torch.linalg.eigh(mean_s).eigenvectors.T.contiguous()
    spread = mixing.square() @ probabilities - (mixing @ probabilities).square()
    diagonal = _weighted_squares(spread.clamp_min(0).float(), samples) + 2 * l2
    mixing = mixing.float()

    def precondition(r: Tensor) -> Tensor:
        mixed: Tensor = mixing.T @ ((mixing @ r) / diagonal)
        return mixed

    return precondition


def _precondition_by_class(
    samples: Tensor, probabilities: Tensor, l2: float
) -> Callable[[Tensor], Tensor]:
    """Invert an approximation of each class's own block of the Hessian.

    In a block ``2 w I + sum p (1 - p) x x^T`` the samples that weigh most are exact (by the
    Woodbury identity); of the others only the diagonal is used.
    """
    spread = (probabilities * (1 - probabilities)).float()
    top = spread.topk(min(_RANK, len(samples)), dim=1)
    chosen = samples[top.indices] * top.values.sqrt()[:, :, None]  # (C, rank, D)
    exact = chosen.square().sum(1)
    rest = _weighted_squares(spread, samples) - exact
    # Without the floor, float32 cannot hold both what is exact and what is left.
    scale = (rest.clamp_min(0) + 2 * l2 + _FLOOR * exact).rsqrt()
    chosen *= scale[:, None, :]
    inner = (chosen @ chosen.transpose(1, 2)).double()
    inner.diagonal(dim1=1, dim2=2).add_(1)
    factor = torch.linalg.cholesky(inner).float()
    basis = torch.linalg.solve_triangular(factor, chosen, upper=False)

    def precondition(r: Tensor) -> Tensor:
        scaled = r * scale
        scaled -= (basis.transpose(1, 2) @ (basis @ scaled[:, :, None]))[:, :, 0]
        return scaled * scale

    return precondition


def _weighted_squares(weights: Tensor, samples: Tensor) -> Tensor:
    """Return the sums (C, D) over samples (N, D) of their squares times weights (C, N)."""
    parts = zip(weights.split(_CHUNK, dim=1), samples.split(_CHUNK), strict=True)
    return sum((own @ part.square() for own, part in parts), samples.new_zeros(()))


def _with_ones(features: Tensor) -> Iterator[Tensor]:
    """Yield the features with a column of ones, in float64, a chunk of rows at a time."""
    for own in features.split(_CHUNK):
        ones = torch.ones(len(own), 1, dtype=torch.float64, device=own.device)
        yield torch.cat([own.double(), ones], dim=1)


def _principal_axes(features: Tensor) -> Tensor:
    """Return orthonormal columns that span the samples and diagonalise their Gram matrix."""
    if len(features) > features.shape[1]:
        zero = torch.zeros((), dtype=torch.float64, device=features.device)
        gram = sum((own.T @ own for own in _with_ones(features)), zero)
        axes: Tensor = torch.linalg.eigh(gram).eigenvectors
        return axes
    samples = torch.cat(list(_with_ones(features)))
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
    problem: _Problem, theta: Tensor, l2: float, tolerance: float
) -> tuple[Tensor, float, float]:
    objective, probabilities = problem.evaluate(theta, l2)
    gradient = problem.gradient(theta, probabilities, l2)
    for _ in range(_MAX_NEWTON_STEPS):
        excess = _excess(objective, gradient, l2)
        if excess <= tolerance:
            break
        # How much smaller the gradient must get; a bit more, as Newton's model is not exact.
        needed = min(0.5, _SAFETY * math.sqrt(tolerance / excess))
        residual = needed if needed > _LOOSEST_CG_RESIDUAL**2 else _LOOSEST_CG_RESIDUAL
        step = problem.newton_step(gradient, probabilities, l2, residual)
        slope = float((gradient * step).sum())
        length = 1.0
        while True:
            moved = theta + length * step
            value, probabilities = problem.evaluate(moved, l2)
            gradient = problem.gradient(moved, probabilities, l2)
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


def _excess(objective: float, gradient: Tensor, l2: float) -> float:
    """Bound the relative excess of `objective` over the minimum, by strong convexity."""
    slack = float(gradient.square().sum()) / (4 * l2)
    return slack / (objective - slack) if slack < objective else math.inf
