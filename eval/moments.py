"""Means and second moments of features, in float64 and in bounded memory."""

import torch
from torch import Tensor

from cassle_zoo.common.errors import DataError

CHUNK = 8192


def check_features(features: Tensor) -> None:
    """Check that features are (N, D), N at least 2, and finite.

    Raises:
        DataError: If not.
    """
    if features.ndim != 2 or len(features) < 2 or features.shape[1] < 1:
        raise DataError(f"features {tuple(features.shape)}: expected (N, D) with N at least 2.")
    if not torch.isfinite(features).all():
        raise DataError("features are NaN or infinite.")


def feature_mean(features: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return the mean of features (N, D) as (D,) float64.

    Args:
        features: (N, D).
        chunk: Rows at a time.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for part in features.split(chunk):
        total += part.double().sum(0)
    return total / len(features)


def second_moments(features: Tensor, mean: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return the sum over rows of (x - mean) (x - mean)ᵀ as (D, D) float64.

    Args:
        features: (N, D).
        mean: (D,) float64.
        chunk: Rows at a time.
    """
    width = features.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    for part in features.split(chunk):
        centred = part.double() - mean
        total += centred.T @ centred
    return total
