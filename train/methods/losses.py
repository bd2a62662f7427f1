"""Self-supervised losses. Pure tensor functions in the precision of their input.

They compute in that precision inside autocast too. Where a row's loss depends on other rows, a
method calls them with the batch of all processes (see `process_group.all_gather`).
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Keep autocast out of a loss: similarities in bfloat16 would have two or three digits."""

    @functools.wraps(loss)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*args, **kwargs)

    return exact


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
    correlation = z1.T @ z2 / len(z1)
    diagonal = correlation.diagonal()
    invariance = (1 - diagonal).square().sum()
    redundancy = correlation.square().sum() - diagonal.square().sum()
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
    invariance = F.mse_loss(z1, z2)
    variance = z1.new_zeros(())
    covariance = z1.new_zeros(())
    for z in (z1, z2):
        centred = z - z.mean(dim=0)
        squares = centred.square().sum(dim=0) / (len(z) - 1)
        variance = variance + F.relu(1 - (squares + 1e-4).sqrt()).mean() / 2
        matrix = centred.T @ centred / (len(z) - 1)
        covariance = covariance + (matrix.square().sum() - squares.square().sum()) / z.shape[1]
    return invariance, variance, covariance


def _accuracy(similarity: Tensor, positive: Tensor) -> Tensor:
    return (similarity.detach().argmax(dim=1) == positive).float().mean()
