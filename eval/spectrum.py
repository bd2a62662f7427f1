"""The spectrum of features: how many directions they really use.

All is computed in float64 from the (D, D) second moments, so that the memory does not grow with
the number of images.
"""

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.moments import CHUNK, check_features, feature_mean, second_moments

RANKME_EPSILON = 1e-7


def covariance_spectrum(features: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Return the variances of the principal components.

    Args:
        features: (N, D), N at least 2.
        chunk: Rows at a time.

    Returns:
        (min(N - 1, D),) float64, descending, not negative: eigenvalues of the covariance, with
        N - 1 in the denominator.

    Raises:
        DataError: If there are too few features, they are not finite, or all are equal.
    """
    check_features(features)
    mean = feature_mean(features, chunk)
    moments = second_moments(features, mean, chunk) / (len(features) - 1)
    values: Tensor = torch.linalg.eigvalsh(moments).flip(0).clamp(min=0)
    values = values[: min(len(features) - 1, features.shape[1])]
    # Equal features leave rounding of their mean, no variance.
    if not values[0] > 1e-14 * float(mean.square().sum()):
        raise DataError("all features are equal, they have no spectrum.")
    return values


def explained_variance(variances: Tensor) -> Tensor:
    """Return each component's share of the total variance, (K,), summing to 1."""
    return variances / variances.sum()


def components_for(variances: Tensor, share: float) -> int:
    """Return how many of the largest components explain at least `share` of the variance.

    Args:
        variances: (K,) descending.
        share: In (0, 1).
    """
    # The last sum may miss 1 by rounding, hence the bound.
    return min(int((explained_variance(variances).cumsum(0) < share).sum()) + 1, len(variances))


def alpha_req(variances: Tensor, *, first: int = 5, last: int = 50) -> float:
    """Return α of the power law λ_i ∝ i^-α (α-ReQ; Agrawal et al., NeurIPS 2022).

    The least-squares slope of log λ_i over log i for components `first` to `last`.

    Args:
        variances: (K,) descending.
        first: First component, counting from 1.
        last: Last component, included.

    Raises:
        ConfigError: If the range is no range, or has fewer than two components.
        DataError: If fewer than `last` components have any variance.
    """
    if not 1 <= first < last:
        raise ConfigError(f"components {first} to {last}: expected 1 <= first < last.")
    noise = variances[0] * torch.finfo(torch.float64).eps * len(variances)
    rank = int((variances > noise).sum())
    if rank < last:
        raise DataError(
            f"only {rank} components have any variance; the power law is fitted to components "
            f"{first} to {last}. Choose an end of at most {rank}, or more images."
        )
    x = torch.arange(first, last + 1, dtype=torch.float64).log()
    y = variances[first - 1 : last].double().cpu().log()
    x = x - x.mean()
    return -float((x * (y - y.mean())).sum() / x.square().sum())


def rankme(features: Tensor, *, chunk: int = CHUNK) -> float:
    """Return RankMe, a smooth rank (Garrido et al., ICML 2023, arXiv 2210.02885, equation 1).

    exp(-Σ_k p_k log p_k) with p_k = σ_k / Σ_j σ_j + 1e-7, of the min(N, D) singular values σ of
    the features as they are, not centred.

    Args:
        features: (N, D).
        chunk: Rows at a time.

    Raises:
        DataError: If there are too few features, they are not finite, or all are zero.
    """
    check_features(features)
    zero = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    squares = torch.linalg.eigvalsh(second_moments(features, zero, chunk)).flip(0).clamp(min=0)
    singular = squares[: min(features.shape)].sqrt()
    if not singular[0] > 0:
        raise DataError("all features are zero, they have no spectrum.")
    p = singular / singular.sum() + RANKME_EPSILON
    return float(torch.exp(-(p * p.log()).sum()))
