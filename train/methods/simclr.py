"""SimCLR (arXiv 2002.05709): tell the two views of an image from all other images' views."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from cassle_zoo.common.config import POSITIVE
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.train.distributed.process_group import gather
from cassle_zoo.train.methods.base import Method, MethodConfig, Pair, Views
from cassle_zoo.train.methods.losses import nt_xent


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(MethodConfig):
    """Settings of SimCLR; the projector has two layers: features, features, 128.

    Attributes:
        temperature: Divisor of the cosine similarities.

    Raises:
        ConfigError: If the temperature is not positive.
    """

    name: ClassVar[str] = "simclr"
    temperature: Annotated[float, POSITIVE] = 0.2

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

    def objective(self, features: Pair, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return NT-Xent and the share of views that found their positive."""
        z1, z2 = (gather(F.normalize(z, dim=1)) for z in self.project(features, views))
        loss, accuracy = nt_xent(z1, z2, self.temperature)
        return loss, {"positive_accuracy": accuracy}
