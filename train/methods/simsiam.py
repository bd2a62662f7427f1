"""SimSiam (arXiv 2011.10566): predict the other view's projection; no teacher, no negatives."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from cassle_zoo.common.config import Range
from cassle_zoo.projector import ProjectorConfig, build_mlp
from cassle_zoo.train.distributed.process_group import all_gather
from cassle_zoo.train.methods.base import Method, MethodConfig, ParamGroup, PerView, Views
from cassle_zoo.train.methods.losses import negative_cosine


class SimSiam(Method):
    """Cosine between predictions from one view and projections of the other, gradient stopped.

    Attributes:
        predictor: Maps projections to projections of the other view.
    """

    def __init__(
        self, backbone: nn.Module, projector: ProjectorConfig, config: "SimSiamConfig"
    ) -> None:
        super().__init__(backbone, projector, config)
        d = projector.out_features
        self.predictor = build_mlp((d, config.predictor_features, d))

    def objective(self, features: PerView, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return -(cos(p1, z2) + cos(p2, z1)) / 2, and the spread of the projections.

        The spread is sqrt(D) times the standard deviation of normalised projections: near 1 if
        they fill the space, 0 if they have collapsed (the paper's figure 2).
        """
        z1, z2 = self.project(features, views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2
        unit = F.normalize(all_gather(z1.detach()), dim=1)
        return loss, {"projection_std": unit.std(dim=0).mean() * unit.shape[1] ** 0.5}

    def param_groups(self) -> list[ParamGroup]:
        """Return the predictor in a group of constant learning rate (the paper's section 4.2)."""
        own = list(self.predictor.parameters())
        known = set(map(id, own))
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        return [{"params": rest}, {"params": own, "constant_lr": True}]


@dataclass(frozen=True, kw_only=True)
class SimSiamConfig(MethodConfig):
    """Settings of SimSiam.

    The projector has three layers of 2048 (two are enough for small data), the last with
    BatchNorm; the predictor two: 512, 2048.

    Attributes:
        predictor_features: Width of the predictor's hidden layer.
    """

    name: ClassVar[str] = "simsiam"
    method_class: ClassVar[type[Method]] = SimSiam
    last_bn: ClassVar[bool] = True
    depth: Annotated[int, Range(1)] = 3
    hidden_features: Annotated[int | None, Range(1)] = 2048
    out_features: Annotated[int, Range(1)] = 2048
    predictor_features: Annotated[int, Range(1)] = 512
