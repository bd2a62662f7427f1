"""SimCLR (arXiv 2002.05709): find the other view of an image among all other images' views."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from cassle_zoo.common.config import POSITIVE
from cassle_zoo.train.distributed.process_group import all_gather
from cassle_zoo.train.methods.base import Method, MethodConfig, Pair, Views
from cassle_zoo.train.methods.losses import nt_xent


class SimCLR(Method):
    """NT-Xent between the projections of both views."""

    config: "SimCLRConfig"

    def objective(self, features: Pair, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return NT-Xent and the fraction of views that found their positive."""
        z1, z2 = (all_gather(F.normalize(z, dim=1)) for z in self.project(features, views))
        loss, accuracy = nt_xent(z1, z2, self.config.temperature)
        return loss, {"positive_accuracy": accuracy}


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(MethodConfig):
    """Settings of SimCLR; the projector has two layers: features, features, 128.

    Attributes:
        temperature: Divisor of the cosine similarities.
    """

    name: ClassVar[str] = "simclr"
    method_class: ClassVar[type[Method]] = SimCLR
    temperature: Annotated[float, POSITIVE] = 0.2
