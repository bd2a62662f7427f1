"""Barlow Twins (arXiv 2103.03230): views agree in each feature, features are not redundant."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from cassle_zoo.common.config import NOT_NEGATIVE, Range
from cassle_zoo.train.distributed.process_group import all_gather
from cassle_zoo.train.methods.base import Method, MethodConfig, ParamGroup, PerView, Views
from cassle_zoo.train.methods.losses import cross_correlation_loss


class BarlowTwins(Method):
    """Cross-correlation of the views' projections, pulled towards the identity matrix."""

    config: "BarlowTwinsConfig"

    def objective(self, features: PerView, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its two parts."""
        z1, z2 = (all_gather(z) for z in self.project(features, views))
        loss, invariance, redundancy = cross_correlation_loss(z1, z2, self.config.redundancy_weight)
        return loss, {"invariance": invariance, "redundancy": redundancy}

    def param_groups(self) -> list[ParamGroup]:
        """Return weight matrices as one group, biases and normalisation weights as another."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        matrices = [p for p in trainable if p.ndim > 1]
        others = [p for p in trainable if p.ndim <= 1]
        return [{"params": matrices}, {"params": others, "lr_scale": self.config.bias_lr_scale}]


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig(MethodConfig):
    """Settings of Barlow Twins.

    The projector has three layers of 8192; the BatchNorm without weight and bias after the last
    one standardises the projections.

    Attributes:
        redundancy_weight: Lambda, the weight of the cross-correlation's off-diagonal elements.
        bias_lr_scale: Factor on the learning rate of biases and normalisation weights.
    """

    name: ClassVar[str] = "barlow_twins"
    method_class: ClassVar[type[Method]] = BarlowTwins
    last_bn: ClassVar[bool] = True
    last_bn_affine: ClassVar[bool] = False
    depth: Annotated[int, Range(1)] = 3
    hidden_features: Annotated[int | None, Range(1)] = 8192
    out_features: Annotated[int, Range(1)] = 8192
    redundancy_weight: Annotated[float, NOT_NEGATIVE] = 0.0051
    bias_lr_scale: Annotated[float, NOT_NEGATIVE] = 0.024
