"""Self-supervised losses. Pure tensor functions in the precision of their input, at least float32.

They compute in that precision inside autocast too. Where a row's loss depends on other rows, a
method calls them with the batch of all processes (see `process_group.all_gather`). All losses raise
a ValueError if their inputs do not fit together, or if there are too few rows for a value.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Keep autocast and half precision out of a loss.

    Similarities in bfloat16 have two or three digits, and sums of squares in float16 overflow.
    """

    @functools.wraps(loss)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = (*args, *kwargs.values())
        device = next(value.device.type for value in given if isinstance(value, Tensor))
        wide: Any = [_at_least_float32(value) for value in args]
        named: Any = {name: _at_least_float32(value) for name, value in kwargs.items()}
        with torch.autocast(device, enabled=False):
            return loss(*wide, **named)

    return exact


def _at_least_float32(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize < 4
    return value.float() if half else value


def _check(first: Tensor, second: Tensor, *, rows: int = 1) -> None:
    """Check that two inputs are (B, D) tensors of the same shape with at least `rows` rows."""
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "the inputs must be two (batch, width) tensors of the same shape, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    if len(first) < rows:
        raise ValueError(
            f"the loss is not defined for a batch of {len(first)}; it needs at least {rows}."
        )


def _off_diagonal(square: Tensor) -> Tensor:
    """Return the elements off the diagonal of a (D, D) matrix, as a (D - 1, D) view."""
    side = len(square)
    return square.flatten()[:-1].view(side - 1, side + 1)[:, 1:]


@in_full_precision
def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.2) -> tuple[Tensor, Tensor]:
    """Normalised temperature-scaled cross-entropy (SimCLR, arXiv 2002.05709, equation 1).

    Each of the 2B projections must find its positive, the other view of the same image, among
    the 2B - 1 others.

    Args:
        z1: (B, D) L2-normalised projections of the first views.
        z2: (B, D) L2-normalised projections of the second views.
        temperature: Divisor of the cosine similarities.

    Returns:
        loss: Scalar, the mean over the 2B projections.
        accuracy: Scalar, the fraction of projections whose positive is the most similar.
    """
    _check(z1, z2)
    z = torch.cat([z1, z2])
    similarity = z @ z.T / temperature
    similarity = similarity.masked_fill(
        torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf
    )
    positive = torch.arange(len(z), device=z.device).roll(len(z1))
    return F.cross_entropy(similarity, positive), _accuracy(similarity, positive)


@in_full_precision
def queue_info_nce(
    queries: Tensor, keys: Tensor, queue: Tensor, temperature: float = 0.2
) -> tuple[Tensor, Tensor]:
    """InfoNCE with negatives from a queue (MoCo, arXiv 1911.05722, equation 1).

    Args:
        queries: (B, D) L2-normalised projections of the first views.
        keys: (B, D) L2-normalised projections of the second views, by the teacher.
        queue: (K, D) L2-normalised negatives, the same for all queries.
        temperature: Divisor of the cosine similarities.

    Returns:
        loss: Scalar, the mean over the queries.
        accuracy: Scalar, the fraction of queries to which their own key is the most similar.
    """
    _check(queries, keys)
    if queue.ndim != 2 or queue.shape[1] != keys.shape[1]:
        raise ValueError(
            f"the queue must be (size, {keys.shape[1]}), as wide as the keys, got "
            f"{tuple(queue.shape)}."
        )
    own = (queries * keys).sum(dim=1, keepdim=True)
    similarity = torch.cat([own, queries @ queue.T], dim=1) / temperature
    positive = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    return F.cross_entropy(similarity, positive), _accuracy(similarity, positive)


@in_full_precision
def batch_info_nce(
    queries: Tensor, keys: Tensor, temperature: float = 0.2
) -> tuple[Tensor, Tensor]:
    """InfoNCE with the batch's other keys as negatives (MoCo v3, arXiv 2104.02057, equation 1).

    Args:
        queries: (B, D) L2-normalised predictions from one view.
        keys: (B, D) L2-normalised projections of the other view, by the teacher.
        temperature: Divisor of the cosine similarities.

    Returns:
        loss: Scalar, the mean over the queries, times 2T.
        accuracy: Scalar, the fraction of queries to which their own key is the most similar.
    """
    _check(queries, keys)
    similarity = queries @ keys.T / temperature
    positive = torch.arange(len(queries), device=queries.device)
    loss = 2 * temperature * F.cross_entropy(similarity, positive)
    return loss, _accuracy(similarity, positive)


@in_full_precision
def cross_correlation_loss(
    z1: Tensor, z2: Tensor, redundancy_weight: float = 0.0051
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance of the cross-correlation matrix from identity (Barlow Twins, 2103.03230, eq. 1).

    Args:
        z1: (B, D) projections of the first views, standardised over the batch (mean 0, variance 1
            with divisor B; a BatchNorm without weight and bias does it).
        z2: (B, D) projections of the second views, likewise.
        redundancy_weight: Lambda, the weight of the elements off the diagonal.

    Returns:
        loss: Scalar, invariance + lambda * redundancy.
        invariance: Scalar, the sum of (1 - c_ii)^2.
        redundancy: Scalar, the sum of c_ij^2 over i != j.
    """
    _check(z1, z2, rows=2)
    correlation = z1.T @ z2 / len(z1)
    diagonal = correlation.diagonal()
    invariance = (1 - diagonal).square().sum()
    redundancy = _off_diagonal(correlation).square().sum()
    return invariance + redundancy_weight * redundancy, invariance, redundancy


@in_full_precision
def negative_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean negative cosine similarity, without gradient to the targets.

    Used by SimSiam (arXiv 2011.10566, equations 1 and 3) and BYOL (arXiv 2006.07733, equation 2, up
    to the constant 2).

    Args:
        predictions: (B, D), of any length.
        targets: (B, D), of any length.

    Returns:
        Scalar in [-1, 1].
    """
    _check(predictions, targets)
    return -F.cosine_similarity(predictions, targets.detach(), dim=1).mean()


@in_full_precision
def vicreg_terms(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Terms of VICReg (arXiv 2105.04906, equations 1 to 5, scaled as in its authors' code).

    Args:
        z1: (B, D) projections of the first views.
        z2: (B, D) projections of the second views.

    Returns:
        invariance: Mean squared difference of the views' projections.
        variance: Mean over both views and all D of max(0, 1 - standard deviation).
        covariance: Sum over both views of the squared off-diagonal covariances, divided by D.
    """
    _check(z1, z2, rows=2)
    invariance = F.mse_loss(z1, z2)
    variance = z1.new_zeros(())
    covariance = z1.new_zeros(())
    for z in (z1, z2):
        centred = z - z.mean(dim=0)
        squares = centred.square().sum(dim=0) / (len(z) - 1)
        variance = variance + F.relu(1 - (squares + 1e-4).sqrt()).mean() / 2
        matrix = centred.T @ centred / (len(z) - 1)
        covariance = covariance + _off_diagonal(matrix).square().sum() / z.shape[1]
    return invariance, variance, covariance


@in_full_precision
def prototype_scores(z: Tensor, prototypes: Tensor) -> Tensor:
    """Return cosine similarities, the output of DINO's weight-normalised last layer.

    Args:
        z: (B, D) projections, of any length.
        prototypes: (K, D) weights of the layer, of any length.

    Returns:
        (B, K) in [-1, 1].
    """
    return F.linear(F.normalize(z, dim=1), F.normalize(prototypes, dim=1))


@in_full_precision
def dino_targets(scores: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Return the teacher's distributions over prototypes, centred and sharpened, without gradient.

    Args:
        scores: (..., K) the teacher's.
        center: (K,) the moving average of its scores.
        temperature: Divisor of the centred scores; the lower, the sharper.

    Returns:
        (..., K) probabilities.
    """
    return ((scores - center) / temperature).softmax(dim=-1).detach()


@in_full_precision
def dino_loss(scores: Tensor, targets: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy between different views' distributions (DINO, arXiv 2104.14294, equation 3).

    Args:
        scores: (V, B, K) the student's for V views.
        targets: (T, B, K) probabilities, the teacher's for the first T of these views.
        temperature: Divisor of the student's scores.

    Returns:
        Scalar, the mean over images and over pairs of a target and another view's scores.

    Raises:
        ValueError: If the shapes do not fit together, or there is no pair or no image.
    """
    views, teachers = len(scores), len(targets)
    fits = scores.ndim == 3 and targets.shape == (teachers, *scores.shape[1:])
    if not fits or not 1 <= teachers <= views or views < 2 or scores.shape[1] < 1:
        raise ValueError(
            "scores must be (V, B, K) of two or more views and targets (T, B, K) of the first T of "
            f"them, got {tuple(scores.shape)} and {tuple(targets.shape)}."
        )
    logs = (scores / temperature).log_softmax(dim=-1)
    pairs = [(t, v) for t in range(teachers) for v in range(views) if t != v]
    losses = [-(targets[t] * logs[v]).sum(dim=-1).mean() for t, v in pairs]
    return torch.stack(losses).mean()


def _accuracy(similarity: Tensor, positive: Tensor) -> Tensor:
    return (similarity.detach().argmax(dim=1) == positive).float().mean()
