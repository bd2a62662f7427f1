"""Many small multinomial logistic regressions at once, each to a proven distance of its optimum.

With few samples the weights lie in their span, so everything follows from inner products: with
``k = (x x' + 1) / 2w`` the logits are ``f = k a`` and the objective, ``sum CE(f) + a . f / 2``, is
minimised by Newton's method. Its steps need no matrix larger than the number of samples (Rasmussen
and Williams, Gaussian Processes for Machine Learning, 2006, algorithm 3.3), and at the residual
``r = a + p - y`` the objective exceeds its minimum by at most ``r . k r / 2``.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cassle_zoo.common.errors import DataError

TOLERANCE = 1e-9
"""Proven bound on the relative excess of each objective over its minimum."""

_MAX_STEPS = 100
_HALVINGS = 30


def solve_episodes(support: Tensor, query: Tensor, *, ways: int, l2: float) -> Tensor:
    """Fit a classifier to the support of each episode and apply it to the queries.

    The objective is the sum of cross-entropies plus ``l2 * (|weight|^2 + |bias|^2)``.

    Args:
        support: (E, ways * shots, D) float64, the samples of a class one after the other.
        query: (E, M, D) float64.
        ways: Number of classes.
        l2: Penalty, positive.

    Returns:
        Logits (E, M, ways) of the queries.

    Raises:
        DataError: If floating point does not let a fit reach `TOLERANCE`.
    """
    kernel = (support @ support.transpose(1, 2) + 1) / (2 * l2)
    labels = torch.arange(ways, device=support.device)
    labels = labels.repeat_interleave(support.shape[1] // ways)
    targets = one_hot(labels, ways).double().expand(len(support), -1, -1)
    dual = _minimise(kernel, targets)
    logits: Tensor = (query @ support.transpose(1, 2) + 1) / (2 * l2) @ dual
    return logits


def _minimise(kernel: Tensor, targets: Tensor) -> Tensor:
    """Return the coefficients a (E, S, C) at the optimum."""
    dual = torch.zeros_like(targets)
    logits = torch.zeros_like(targets)
    value = _objective(logits, dual, targets)
    for _ in range(_MAX_STEPS):
        p = logits.softmax(2)
        residual = dual + p - targets
        excess = (residual * (kernel @ residual)).sum((1, 2)) / 2
        active = excess > TOLERANCE * (value - excess)
        if not active.any():
            return dual
        # Finished episodes do not change, so that no episode depends on others.
        step = _newton(kernel, targets, logits, p) - dual
        step = step * active[:, None, None]
        change = kernel @ step
        slope = (residual * change).sum((1, 2))
        length = active.double()
        for _ in range(_HALVINGS):
            scale = length[:, None, None]
            moved = _objective(logits + scale * change, dual + scale * step, targets)
            # Where rounding hides the decrease near the optimum, the full step is right.
            worse = moved > value + 1e-4 * length * slope + 1e-13 * value
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        scale = length[:, None, None]
        dual, logits = dual + scale * step, logits + scale * change
        value = _objective(logits, dual, targets)
    raise DataError(
        f"the logistic regressions of {int(active.sum())} of {len(active)} episodes did not "
        "converge; are the features huge? Normalise them, or raise l2."
    )


def _objective(logits: Tensor, dual: Tensor, targets: Tensor) -> Tensor:
    losses = -(logits.log_softmax(2) * targets).sum((1, 2))
    return losses + (dual * logits).sum((1, 2)) / 2


def _newton(kernel: Tensor, targets: Tensor, logits: Tensor, p: Tensor) -> Tensor:
    """Return the coefficients at the minimum of the second-order model."""
    root = p.sqrt().transpose(1, 2)  # (E, C, S)
    inner = root[:, :, :, None] * kernel[:, None] * root[:, :, None, :]
    inner.diagonal(dim1=2, dim2=3).add_(1)
    factor = torch.linalg.cholesky_ex(inner).L
    half = torch.linalg.solve_triangular(factor, torch.diag_embed(root), upper=False)
    blocks = half.transpose(2, 3) @ half
    weighted = p * logits
    b = weighted - p * weighted.sum(2, keepdim=True) + targets - p
    c = (blocks @ (kernel @ b).transpose(1, 2)[..., None])[..., 0]  # (E, C, S)
    total = torch.linalg.cholesky_ex(blocks.sum(1)).L
    shared = torch.cholesky_solve(c.sum(1)[..., None], total)
    correction = (blocks @ shared[:, None])[..., 0]
    moved: Tensor = b - c.transpose(1, 2) + correction.transpose(1, 2)
    return moved
