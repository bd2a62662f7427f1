"""The spectrum of features: the number of directions they use.

All is computed in float64 from the (D, D) second moments, so that the memory does not grow with
the number of images.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from cassle_zoo.common.config import Range
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import EvalContext, Outcome, Settings
from cassle_zoo.eval.report.figures import render, require_matplotlib
from cassle_zoo.eval.report.sensitivity_figures import spectrum_figure
from cassle_zoo.features.whitening import check_features, mean_and_covariance, second_moments

RANKME_EPSILON = 1e-7
PERCENTS = (90, 95, 99)


def covariance_spectrum(features: Tensor) -> Tensor:
    """Return the variances of the principal components.

    Args:
        features: (N, D), N at least 2.

    Returns:
        (min(N - 1, D),) float64, descending, not negative: eigenvalues of the covariance, with
        N - 1 in the denominator.

    Raises:
        DataError: If there are too few features, they are not finite, or all are equal.
    """
    check_features(features)
    mean, covariance = mean_and_covariance(features)
    values: Tensor = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)
    values = values[: min(len(features) - 1, features.shape[1])]
    # The variance of equal features is only the rounding error of their mean.
    if not values[0] > 1e-14 * float(mean.square().sum()):
        raise DataError("all features are equal, they have no spectrum.")
    return values


def explained_variance(variances: Tensor) -> Tensor:
    """Return each component's fraction of the total variance, (K,), summing to 1."""
    return variances / variances.sum()


def components_for(variances: Tensor, fraction: float) -> int:
    """Return how many of the largest components explain at least `fraction` of the variance.

    Args:
        variances: (K,) descending.
        fraction: In (0, 1).
    """
    # The last sum may miss 1 by rounding, hence the bound.
    return min(int((explained_variance(variances).cumsum(0) < fraction).sum()) + 1, len(variances))


def alpha_req(variances: Tensor, *, first: int = 5, last: int = 50) -> float:
    """Return α of the power law λ_i ∝ i^-α (α-ReQ; Agrawal et al., NeurIPS 2022).

    The least-squares slope of log λ_i over log i for components `first` to `last`.

    Args:
        variances: (K,) descending.
        first: First component, counting from 1.
        last: Last component, included.

    Raises:
        ConfigError: If the range has fewer than two components.
        DataError: If fewer than `last` components have any variance.
    """
    _check_order(first, last)
    noise = variances[0] * torch.finfo(torch.float64).eps * len(variances)
    rank = int((variances > noise).sum())
    if rank < last:
        raise DataError(
            f"only {rank} components have any variance; the power law is fitted to components "
            f"{first} to {last}. Choose an end of at most {rank} (--components), or more images."
        )
    x = torch.arange(first, last + 1, dtype=torch.float64).log()
    y = variances[first - 1 : last].double().cpu().log()
    x = x - x.mean()
    return -float((x * (y - y.mean())).sum() / x.square().sum())


def _check_order(first: int, last: int) -> None:
    if not 1 <= first < last:
        raise ConfigError(f"components {first} to {last}: expected 1 <= first < last.")


def rankme(features: Tensor) -> float:
    """Return RankMe, a smooth rank (Garrido et al., ICML 2023, arXiv 2210.02885, equation 1).

    exp(-Σ_k p_k log p_k) with p_k = σ_k / Σ_j σ_j + 1e-7, of the min(N, D) singular values σ of
    the features as they are, not centred.

    Args:
        features: (N, D).

    Raises:
        DataError: If there are too few features, they are not finite, or all are zero.
    """
    check_features(features)
    zero = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    squares = torch.linalg.eigvalsh(second_moments(features, zero)).flip(0).clamp(min=0)
    singular = squares[: min(features.shape)].sqrt()
    if not singular[0] > 0:
        raise DataError("all features are zero, they have no spectrum.")
    p = singular / singular.sum() + RANKME_EPSILON
    return float(torch.exp(-(p * p.log()).sum()))


@dataclass(frozen=True, kw_only=True)
class Spectrum(Settings):
    """Explained variance, alpha-ReQ and RankMe of the features of all images.

    Attributes:
        components: First and last component that alpha-ReQ's power law is fitted to.
        figures: Draw the spectrum, which needs the extra `figures`; `--no-figures` does without.
    """

    components: Annotated[tuple[int, int], Range(1)] = (5, 50)
    figures: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        _check_order(*self.components)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `alpha_req`, `rankme` and `components_90`, `_95`, `_99`; explained variances."""
        if self.figures:
            require_matplotlib()
        variances = covariance_spectrum(context.features)
        first, last = self.components
        values = {
            "alpha_req": alpha_req(variances, first=first, last=last),
            "rankme": rankme(context.features),
        }
        for percent in PERCENTS:
            values[f"components_{percent}"] = components_for(variances, percent / 100)
        count, width = context.features.shape
        fractions = explained_variance(variances).tolist()
        files = {}
        if self.figures:
            files["spectrum.png"] = render(spectrum_figure(fractions, context.source.name))
        return Outcome(
            metrics={"spectrum": values},
            protocol={
                "spectrum": f"of {count} x {width} features, in float64; components_P: principal "
                "components that explain P % of the variance; alpha_req: minus the slope of log "
                f"variance over log index, components {first} to {last}; rankme: exp of the "
                "entropy of the normalised singular values (+1e-7) of the features, not centred"
            },
            series={"explained_variance": fractions},
            files=files,
        )
