"""The spectrum of the features."""

from dataclasses import dataclass
from typing import Annotated

from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.eval import spectrum
from cassle_zoo.eval.base import EvalContext, Outcome
from cassle_zoo.eval.report.figures import render, require_matplotlib
from cassle_zoo.eval.report.sensitivity_figures import spectrum_figure

SHARES = (90, 95, 99)


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Explained variance, alpha-ReQ and RankMe of the features of all images.

    Attributes:
        components: First and last component that alpha-ReQ's power law is fitted to.
        figures: Whether to draw the spectrum, which needs the extra `figures`.
    """

    components: Annotated[tuple[int, int], Range(1)] = (5, 50)
    figures: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `alpha_req`, `rankme` and `components_90`, `_95`, `_99`; explained variances."""
        if self.figures:
            require_matplotlib()
        variances = spectrum.covariance_spectrum(context.features)
        first, last = self.components
        values = {
            "alpha_req": spectrum.alpha_req(variances, first=first, last=last),
            "rankme": spectrum.rankme(context.features),
        }
        for share in SHARES:
            values[f"components_{share}"] = spectrum.components_for(variances, share / 100)
        count, width = context.features.shape
        series = {"explained_variance": spectrum.explained_variance(variances).tolist()}
        files = {}
        if self.figures:
            files["spectrum.png"] = render(spectrum_figure({context.source.name: series}))
        return Outcome(
            metrics={"spectrum": values},
            protocol={
                "spectrum": f"of {count} x {width} features, in float64; components_P: principal "
                "components that explain P % of the variance; alpha_req: minus the slope of log "
                f"variance over log index, components {first} to {last}; rankme: exp of the "
                "entropy of the normalised singular values (+1e-7) of the features, not centred"
            },
            series=series,
            files=files,
        )
