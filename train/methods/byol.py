"""BYOL (arXiv 2006.07733): predict the teacher's projection of the other view, no negatives."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from cassle_zoo.common.config import Range
from cassle_zoo.projector import ProjectorConfig, build_mlp
from cassle_zoo.train.methods.base import Method, MethodConfig, PerView, Views
from cassle_zoo.train.methods.losses import negative_cosine
from cassle_zoo.train.methods.teacher import EMATeacher


class BYOL(Method):
    """Cosine between predictions from one view and the teacher's projections of the other.

    Attributes:
        predictor: Maps projections to the teacher's projections of the other view.
        teacher: Makes the targets.
    """

    config: "BYOLConfig"

    def __init__(
        self, backbone: nn.Module, projector: ProjectorConfig, config: "BYOLConfig"
    ) -> None:
        super().__init__(backbone, projector, config)
        d = projector.out_features
        self.predictor = build_mlp((d, config.predictor_features, d))
        self.teacher = EMATeacher(self)

    def objective(self, features: PerView, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return -2 (cos(p1, t2) + cos(p2, t1)), which is at least -4."""
        p1, p2 = (self.predictor(z) for z in self.project(features, views))
        t1, t2 = self.teacher(views)
        return 2 * (negative_cosine(p1, t2) + negative_cosine(p2, t1)), {}

    def after_step(self, progress: float) -> None:
        """Update the teacher, ever more slowly (the paper's section 3.2)."""
        rate = (1 - self.config.momentum) * (math.cos(math.pi * progress) + 1) / 2
        self.teacher.ema_update(self, 1 - rate)


@dataclass(frozen=True, kw_only=True)
class BYOLConfig(MethodConfig):
    """Settings of BYOL; the projector has two layers: features, 256; the predictor: 4096, 256.

    Attributes:
        momentum: The teacher's EMA momentum at the start of training; it rises to 1 along a cosine.
        predictor_features: Width of the predictor's hidden layer.
    """

    name: ClassVar[str] = "byol"
    method_class: ClassVar[type[Method]] = BYOL
    out_features: Annotated[int, Range(1)] = 256
    momentum: Annotated[float, Range(0, 1)] = 0.996
    predictor_features: Annotated[int, Range(1)] = 4096
