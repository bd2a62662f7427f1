"""Ridge regression in closed form and float64, for all penalties from one decomposition."""

import torch
from torch import Tensor

from cassle_zoo.common.errors import DataError


class Ridge:
    """Ridge regressions of the same data, ready to predict with any l2 penalty."""

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        """Fit targets (N, T) to features (N, D), which are scaled to unit variance first.

        Raises:
            DataError: If the numbers of rows differ or are less than 2, or values are not finite.
        """
        if len(features) != len(targets) or len(features) < 2:
            raise DataError(f"{len(features)} features and {len(targets)} targets; 2 are needed.")
        if not (torch.isfinite(features).all() and torch.isfinite(targets).all()):
            raise DataError("features or targets are NaN or infinite.")
        x, y = features.double(), targets.double()
        self.mean, self.bias = x.mean(0), y.mean(0)
        x, y = x - self.mean, y - self.bias
        deviation = x.square().mean(0).sqrt()
        # Constant features are only centred.
        self.scale = torch.where(deviation > 1e-12 * (1 + self.mean.abs()), deviation, 1)
        x = x / self.scale
        if x.shape[1] <= len(x):
            spectrum, self.basis = torch.linalg.eigh(x.T @ x)
            self.coefficients = self.basis.T @ (x.T @ y)
        else:
            # The same solution from the smaller matrix of inner products.
            spectrum, vectors = torch.linalg.eigh(x @ x.T)
            self.basis, self.coefficients = x.T @ vectors, vectors.T @ y
        self.spectrum = spectrum.clamp(min=0)

    def predict(self, features: Tensor, l2: float) -> Tensor:
        """Return predictions (M, T) float64 for features (M, D).

        Args:
            features: Features of other samples.
            l2: λ > 0 of Σ ‖y - W x‖² + λ ‖W‖².
        """
        shrunk = self.coefficients / (self.spectrum + l2)[:, None]
        weights = (self.basis @ shrunk) / self.scale[:, None]
        predicted: Tensor = (features.double() - self.mean) @ weights + self.bias
        return predicted
