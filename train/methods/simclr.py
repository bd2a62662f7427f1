"""SimCLR (arXiv 2002.05709): tell the two views of a picture from all other pictures' views."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from cassle_zoo.errors import ConfigError
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.train.losses import nt_xent
from cassle_zoo.train.methods.base import ConditioningConfig, Method, MethodConfig, Views


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(MethodConfig):
    """Settings of SimCLR.

    Attributes:
        temperature: Divisor of the cosine similarities.
        out_features: Width of the projection.

    Raises:
        ConfigError: If the temperature is not positive.
    """

    temperature: float = 0.2
    out_features: int = 128

    def __post_init__(self) -> None:
        """Check the temperature; the projector checks the width."""
        if not self.temperature > 0:
            raise ConfigError(f"method.temperature must be positive, got {self.temperature}.")

    @property
    def name(self) -> str:
        """The method's name in model names."""
        return "simclr"

    def projector(self, in_features: int, conditioning: ConditioningConfig) -> ProjectorConfig:
        """Return two layers: features, features, 128."""
        return ProjectorConfig(
            in_features=in_features,
            out_features=self.out_features,
            conditioning=conditioning.how,
            descriptors=conditioning.descriptors,
            encoder_depth=conditioning.depth,
            encoder_width=conditioning.width,
        )

    def build(self, backbone: nn.Module, projector: ProjectorConfig) -> Method:
        """Return SimCLR around a backbone."""
        return SimCLR(backbone, projector, self)


class SimCLR(Method):
    """NT-Xent between the projections of both views."""

    def __init__(
        self, backbone: nn.Module, projector: ProjectorConfig, config: SimCLRConfig
    ) -> None:
        """Keep the temperature."""
        super().__init__(backbone, projector)
        self.temperature = config.temperature

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return NT-Xent and the share of views that found their positive."""
        z1, z2 = (
            F.normalize(_full(self.project(images, descriptors)), dim=1)
            for images, descriptors in zip(views.images, views.descriptors, strict=True)
        )
        loss, accuracy = nt_xent(z1, z2, self.temperature)
        return loss, {"positive_accuracy": accuracy}


def _full(z: Tensor) -> Tensor:
    """Undo autocast's reduced precision; leave float32 and float64 as they are."""
    return z.float() if z.dtype.itemsize < 4 else z
