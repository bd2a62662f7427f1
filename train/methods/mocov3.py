"""MoCo v3 (arXiv 2104.02057): predict which of the batch's keys belongs to an image."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from cassle_zoo.common.config import POSITIVE, Range
from cassle_zoo.projector import ProjectorConfig, build_mlp
from cassle_zoo.train.distributed.process_group import all_gather
from cassle_zoo.train.methods.base import Method, MethodConfig, PerView, Views, in_float32
from cassle_zoo.train.methods.losses import batch_info_nce
from cassle_zoo.train.methods.teacher import EMATeacher


class MoCoV3(Method):
    """InfoNCE of predictions from one view against the teacher's projections of the other.

    Attributes:
        predictor: Maps projections to the teacher's projections of the other view.
        teacher: Makes the keys.
    """

    config: "MoCoV3Config"

    def __init__(
        self, backbone: nn.Module, projector: ProjectorConfig, config: "MoCoV3Config"
    ) -> None:
        super().__init__(backbone, projector, config)
        d = projector.out_features
        widths = (d, config.predictor_features, d)
        self.predictor = build_mlp(widths, last_bn=True, last_bn_affine=False)
        self.teacher = EMATeacher(self)

    def objective(self, features: PerView, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the symmetric InfoNCE and the fraction of queries that found their key."""
        predictions = (in_float32(self.predictor(z)) for z in self.project(features, views))
        q1, q2 = (F.normalize(p, dim=1) for p in predictions)
        if self.training:  # before the keys, as in the paper's algorithm 1
            self.teacher.ema_update(self, self.config.momentum)
        k1, k2 = (F.normalize(z, dim=1) for z in self.teacher(views))
        q1, q2, k1, k2 = (all_gather(x) for x in (q1, q2, k1, k2))
        loss1, accuracy1 = batch_info_nce(q1, k2, self.config.temperature)
        loss2, accuracy2 = batch_info_nce(q2, k1, self.config.temperature)
        return loss1 + loss2, {"positive_accuracy": (accuracy1 + accuracy2) / 2}


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config(MethodConfig):
    """Settings of MoCo v3.

    The projector has three layers: 4096, 4096, 256; the predictor two: 4096, 256. Both end in a
    BatchNorm without weight and bias.

    Attributes:
        temperature: Divisor of the cosine similarities.
        momentum: The teacher's EMA momentum.
        predictor_features: Width of the predictor's hidden layer.
    """

    name: ClassVar[str] = "mocov3"
    method_class: ClassVar[type[Method]] = MoCoV3
    last_bn: ClassVar[bool] = True
    last_bn_affine: ClassVar[bool] = False
    depth: Annotated[int, Range(1)] = 3
    hidden_features: Annotated[int | None, Range(1)] = 4096
    out_features: Annotated[int, Range(1)] = 256
    temperature: Annotated[float, POSITIVE] = 0.2
    momentum: Annotated[float, Range(0, 1)] = 0.999
    predictor_features: Annotated[int, Range(1)] = 4096
