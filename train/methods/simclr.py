"""SimCLR (arXiv 2002.05709): find the other view of an image among all other images' views."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cassle_zoo.common.config import POSITIVE
from cassle_zoo.train.distributed.process_group import all_gather
from cassle_zoo.train.methods.base import Method, MethodConfig, PerView, Views
from cassle_zoo.train.methods.losses import nt_xent


class SimCLR(Method):
    """NT-Xent between the projections of two views; with more, its mean over pairs of views.

    The pairs are any two views except two local crops, which may have nothing in common:
    loss = mean over (a, b), a < b and a global, of NT-Xent(z_a, z_b).
    """

    config: "SimCLRConfig"

    def objective(self, features: PerView, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return NT-Xent and the fraction of views that found their positive."""
        z = [all_gather(F.normalize(z, dim=1)) for z in self.project(features, views)]
        losses = [nt_xent(z[a], z[b], self.config.temperature) for a, b in views.pairs]
        loss, accuracy = (torch.stack(values).mean() for values in zip(*losses, strict=True))
        return loss, {"positive_accuracy": accuracy}


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(MethodConfig):
    """Settings of SimCLR; the projector has two layers: features, features, 128.

    Attributes:
        temperature: Divisor of the cosine similarities.
    """

    name: ClassVar[str] = "simclr"
    method_class: ClassVar[type[Method]] = SimCLR
    multi_view: ClassVar[bool] = True
    temperature: Annotated[float, POSITIVE] = 0.2
