"""Predicting ω from features by ridge regression, and ranking candidates for it. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cassle_zoo.common.errors import DataError

PENALTIES: tuple[float, ...] = tuple(10 ** (exponent / 2) for exponent in range(-12, 9))
"""Per sample and standardised feature: 21 values from 1e-6 to 1e4."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgePath:
    """Ridge regressions of the same data, ready to predict with any penalty.

    Attributes:
        mean: (D,) of the features.
        scale: (D,) standard deviation of the features; 1 where they are constant.
        centre: (T,) mean of the targets.
        basis: (D, K) directions.
        spectrum: (K,) eigenvalues that belong to them.
        coefficients: (K, T) targets in this basis.
        count: Number of samples N.
    """

    mean: Tensor
    scale: Tensor
    centre: Tensor
    basis: Tensor
    spectrum: Tensor
    coefficients: Tensor
    count: int

    def predict(self, features: Tensor, penalty: float) -> Tensor:
        """Return predictions (M, T) float64 for features (M, D).

        Args:
            features: Of other samples.
            penalty: λ > 0 of Σ ‖y - W x‖² + λ N ‖W‖², x being standardised.
        """
        shrunk = self.coefficients / (self.spectrum + penalty * self.count).unsqueeze(1)
        weights = (self.basis @ shrunk) / self.scale.unsqueeze(1)
        result: Tensor = (features.double() - self.mean) @ weights + self.centre
        return result


def fit_ridge(features: Tensor, targets: Tensor) -> RidgePath:
    """Fit targets (N, T) by features (N, D) for all penalties at once, in closed form and float64.

    Raises:
        DataError: If the numbers of rows differ or are less than 2, or values are not finite.
    """
    if len(features) != len(targets) or len(features) < 2:
        raise DataError(f"{len(features)} features and {len(targets)} targets; 2 are needed.")
    if not (torch.isfinite(features).all() and torch.isfinite(targets).all()):
        raise DataError("features or targets are NaN or infinite.")
    x, y = features.double(), targets.double()
    mean, centre = x.mean(0), y.mean(0)
    x, y = x - mean, y - centre
    scale = x.square().mean(0).sqrt()
    scale = torch.where(scale > 1e-12 * (1 + mean.abs()), scale, 1)
    x = x / scale
    if x.shape[1] <= len(x):
        spectrum, basis = torch.linalg.eigh(x.T @ x)
        coefficients = basis.T @ (x.T @ y)
    else:
        # The same solution from the smaller matrix of inner products.
        spectrum, vectors = torch.linalg.eigh(x @ x.T)
        basis, coefficients = x.T @ vectors, vectors.T @ y
    return RidgePath(
        mean=mean, scale=scale, centre=centre, basis=basis, spectrum=spectrum.clamp(min=0),
        coefficients=coefficients, count=len(x),
    )  # fmt: skip


def r2_scores(targets: Tensor, predictions: Tensor) -> Tensor:
    """Return 1 - (squared error) / (variance about the mean) of each of T targets, (T,) float64.

    Raises:
        DataError: If a target is constant.
    """
    y = targets.double()
    total = (y - y.mean(0)).square().sum(0)
    if not (total > 0).all():
        raise DataError("R² is not defined: a target is the same for all held-out images.")
    return 1 - (y - predictions).square().sum(0) / total


def probe(
    features: Tensor,
    targets: Tensor,
    splits: Mapping[str, Tensor],
    columns: Mapping[str, slice],
) -> dict[str, float]:
    """Return R² on held-out images of each group of targets, the mean over its columns.

    The penalty is, for each group, the one of `PENALTIES` with the highest R² on `val` after
    fitting `train`; then train and val are fitted, and `test` is predicted once.

    Args:
        features: (N, D).
        targets: (N, T).
        splits: Indices of `train`, `val` and `test`.
        columns: Of the targets by group.

    Raises:
        DataError: If values are not finite, or a target is constant in `val` or `test`.
    """
    train, val, test = (splits[name] for name in ("train", "val", "test"))
    path = fit_ridge(features[train], targets[train])
    tried = torch.stack(
        [r2_scores(targets[val], path.predict(features[val], p)) for p in PENALTIES]
    )
    both = torch.cat([train, val])
    final = fit_ridge(features[both], targets[both])
    scores = {}
    for name, part in columns.items():
        penalty = PENALTIES[int(tried[:, part].mean(1).argmax())]
        predicted = final.predict(features[test], penalty)
        scores[name] = float(r2_scores(targets[test], predicted)[part].mean())
    return scores


def ranks_of_first(scores: Tensor) -> Tensor:
    """Return the rank of column 0 within each row of (N, C) scores, 1 being the highest.

    Equal scores share the mean of their ranks, so that constant scores rank as by chance.
    """
    right = scores[:, :1]
    higher = (scores > right).sum(1)
    equal = (scores == right).sum(1) - 1
    return 1 + higher + equal / 2
