"""VICReg (arXiv 2105.04906): views agree, features vary and are not redundant."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from cassle_zoo.common.config import NOT_NEGATIVE, Range
from cassle_zoo.train.distributed.process_group import all_gather
from cassle_zoo.train.methods.base import Method, MethodConfig, PerView, Views
from cassle_zoo.train.methods.losses import vicreg_terms


class VICReg(Method):
    """Invariance, variance and covariance of the views' projections."""

    config: "VICRegConfig"

    def objective(self, features: PerView, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the three terms, and each of them."""
        z1, z2 = (all_gather(z) for z in self.project(features, views))
        invariance, variance, covariance = vicreg_terms(z1, z2)
        loss = (
            self.config.invariance_weight * invariance
            + self.config.variance_weight * variance
            + self.config.covariance_weight * covariance
        )
        return loss, {"invariance": invariance, "variance": variance, "covariance": covariance}


@dataclass(frozen=True, kw_only=True)
class VICRegConfig(MethodConfig):
    """Settings of VICReg; the projector has three layers of 8192.

    Attributes:
        invariance_weight: Weight of the distance between views.
        variance_weight: Weight of the hinge that keeps standard deviations at 1.
        covariance_weight: Weight of the off-diagonal covariances.
    """

    name: ClassVar[str] = "vicreg"
    method_class: ClassVar[type[Method]] = VICReg
    depth: Annotated[int, Range(1)] = 3
    hidden_features: Annotated[int | None, Range(1)] = 8192
    out_features: Annotated[int, Range(1)] = 8192
    invariance_weight: Annotated[float, NOT_NEGATIVE] = 25.0
    variance_weight: Annotated[float, NOT_NEGATIVE] = 25.0
    covariance_weight: Annotated[float, NOT_NEGATIVE] = 1.0
