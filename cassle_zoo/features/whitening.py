"""PCA whitening, after which every principal component counts equally in a cosine.

Raw cosines mostly compare the few directions along which features vary most; docs/study.md measures
the effect of whitening. See Jégou and Chum, "Negative evidences and co-occurrences in image
retrieval: the benefit of PCA and whitening", ECCV 2012.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError

CHUNK = 8192
_ENOUGH = 2  # features per component; the last variances of fewer are nearly 0 by chance


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """An affine map after which the features that it was fitted to have unit covariance.

    Attributes:
        mean: (D,) float64.
        projection: (D, K) float64: principal directions, divided by their standard deviations.
    """

    mean: Tensor
    projection: Tensor

    @classmethod
    def fit(cls, features: Tensor, components: int, *, chunk: int = CHUNK) -> "Whitening":
        """Fit to features, for example of the gallery to be searched; no labels are used.

        Args:
            features: (N, D), N at least 2 K.
            components: K, the number of principal components; at most D.
            chunk: Rows at a time.

        Raises:
            ConfigError: If `components` is not in [1, D].
            DataError: If features are not finite, too few, or vary in too few directions.
        """
        check_features(features)
        count, width = features.shape
        if not 1 <= components <= width:
            raise ConfigError(
                f"{components} components: expected 1 to {width}, the width of the features."
            )
        if count < _ENOUGH * components:
            raise DataError(
                f"whitening to {components} components needs {_ENOUGH * components} images, got "
                f"{count}; use at most {count // _ENOUGH} components."
            )
        mean, covariance = mean_and_covariance(features, chunk)
        variances, directions = (found.flip(-1) for found in torch.linalg.eigh(covariance))
        # Rounding of equal features leaves variance too.
        noise = torch.finfo(torch.float64).eps * width * torch.trace(covariance + mean.outer(mean))
        rank = int((variances > noise).sum())
        if rank < components:
            raise DataError(
                f"the features vary in {rank} directions only; {components} components requested."
            )
        largest = slice(components)
        return cls(mean=mean, projection=directions[:, largest] / variances[largest].sqrt())

    def __call__(self, features: Tensor, *, chunk: int = CHUNK) -> Tensor:
        """Return whitened features.

        Args:
            features: (N, D), on the device of the features fitted to.
            chunk: Rows at a time.

        Returns:
            (N, K) float32.

        Raises:
            DataError: If D is not that of the features fitted to.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise DataError(
                f"features {tuple(features.shape)}: expected (N, {len(self.mean)}), as fitted to."
            )
        parts = features.split(chunk)
        return torch.cat([((x.double() - self.mean) @ self.projection).float() for x in parts])


def check_features(features: Tensor) -> None:
    """Check that features are (N, D), N at least 2, and finite.

    Raises:
        DataError: If not.
    """
    if features.ndim != 2 or len(features) < 2 or features.shape[1] < 1:
        raise DataError(f"features {tuple(features.shape)}: expected (N, D) with N at least 2.")
    if not torch.isfinite(features).all():
        raise DataError("features are NaN or infinite.")


def mean_and_covariance(features: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D), with N - 1 in the denominator, in float64.

    Args:
        features: (N, D).
        chunk: Rows at a time.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for part in features.split(chunk):
        total += part.double().sum(0)
    mean = total / len(features)
    return mean, second_moments(features, mean, chunk) / (len(features) - 1)


def second_moments(features: Tensor, centre: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return the sum over rows of (x - centre) (x - centre)ᵀ as (D, D) float64.

    Args:
        features: (N, D).
        centre: (D,) float64.
        chunk: Rows at a time.
    """
    width = features.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    for part in features.split(chunk):
        centred = part.double() - centre
        total += centred.T @ centred
    return total
