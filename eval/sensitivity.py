"""How far features of an image and of its augmented version lie apart.

The measures of the paper's analysis (section 5, figure 3), as its code computes them. All are in
float64: sums over many negatives would otherwise depend on how they are cut into chunks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError

TEMPERATURE = 0.2
BARLOW_LAMBDA = 0.0051


def infonce(
    first: Tensor, second: Tensor, *, temperature: float = TEMPERATURE, chunk: int = 1024
) -> float:
    """Return InfoNCE times 2T: how hard an image's augmented version is to tell from others'.

    2T · mean_i[-log(exp(cos(a_i, b_i)/T) / Σ_j exp(cos(a_i, b_j)/T))]. The higher, the less
    invariant. It grows with the number of images N, so compare values of equal N only.

    Args:
        first: (N, D) features of images.
        second: (N, D) features of their augmented versions, in the same order.
        temperature: T > 0.
        chunk: Rows of the similarity matrix at a time, which bounds the memory.

    Raises:
        DataError: If shapes differ, or features are not finite.
        ConfigError: If the temperature or chunk is not positive.
    """
    if not (temperature > 0 and chunk > 0):
        raise ConfigError(
            f"temperature={temperature} and chunk={chunk}: positive numbers are needed."
        )
    a, b = _directions(first, second)
    total = 0.0
    for rows in torch.arange(len(a), device=a.device).split(chunk):
        total += float(F.cross_entropy(a[rows] @ b.T / temperature, rows, reduction="sum"))
    return 2 * temperature * total / len(a)


def mean_positive_cosine(first: Tensor, second: Tensor) -> float:
    """Return the mean cosine of an image's (N, D) and its augmented version's features.

    Raises:
        DataError: If shapes differ, or features are not finite.
    """
    a, b = _directions(first, second)
    return float((a * b).sum(1).mean())


def mean_negative_cosine(first: Tensor, second: Tensor) -> float:
    """Return the mean cosine of the i-th image and the augmented version of the i-th last.

    Raises:
        DataError: If shapes differ, or features are not finite.
    """
    return mean_positive_cosine(first, second.flip(0))


def self_distill(first: Tensor, second: Tensor) -> float:
    """Return SimSiam's loss without predictor: minus the mean cosine.

    Raises:
        DataError: If shapes differ, or features are not finite.
    """
    return -mean_positive_cosine(first, second)


def cca(first: Tensor, second: Tensor, *, weight: float = BARLOW_LAMBDA) -> float:
    """Return Barlow Twins' loss of the features as they are, not standardised.

    With C = firstᵀ·second / N: Σ_i (C_ii - 1)² + weight · Σ_i≠j C_ij².

    Raises:
        DataError: If shapes differ, or features are not finite.
    """
    a, b = _checked(first, second)
    correlation = a.T @ b / len(a)
    on = correlation.diagonal()
    off = correlation.square().sum() - on.square().sum()
    return float((on - 1).square().sum() + weight * off)


def _directions(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _checked(first, second)
    return F.normalize(a, dim=1), F.normalize(b, dim=1)


def _checked(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.ndim != 2 or first.shape != second.shape or 0 in first.shape:
        raise DataError(
            f"features {tuple(first.shape)} and {tuple(second.shape)}: expected two of (N, D)."
        )
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise DataError("features are NaN or infinite.")
    return first.double(), second.double()
