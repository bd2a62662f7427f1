"""MoCo v2 (arXiv 1911.05722, 2003.04297): find an image's key among a queue of other keys."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cassle_zoo.common.config import POSITIVE, Range
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.train.distributed.process_group import all_gather
from cassle_zoo.train.methods.base import Method, MethodConfig, PerView, Views, in_float32
from cassle_zoo.train.methods.losses import queue_info_nce
from cassle_zoo.train.methods.teacher import EMATeacher


class MoCoV2(Method):
    """InfoNCE of first views (queries) against the teacher's second views (keys) and a queue.

    Attributes:
        teacher: Makes the keys.
        queue: (K, D) L2-normalised, the latest K keys.
        position: Row of the queue that is overwritten next.
    """

    config: "MoCoV2Config"
    queue: Tensor
    position: Tensor

    def __init__(
        self, backbone: nn.Module, projector: ProjectorConfig, config: "MoCoV2Config"
    ) -> None:
        super().__init__(backbone, projector, config)
        self.teacher = EMATeacher(self)
        queue = torch.randn(config.queue_size, projector.out_features)
        self.register_buffer("queue", F.normalize(queue, dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))
        self._newest: Tensor | None = None

    def features(self, views: Views) -> PerView:
        """Return the backbone's features of the first views and the teacher's of the second."""
        return self.backbone(views.images[0]), self.teacher.features(views.images[1])

    def objective(self, features: PerView, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return InfoNCE and the fraction of queries that found their key."""
        (y1, y2), (omega1, omega2) = features, views.descriptors
        queries = F.normalize(in_float32(self.projector(y1, omega1)), dim=1)
        keys = F.normalize(self.teacher.project(y2, omega2), dim=1)
        loss, accuracy = queue_info_nce(queries, keys, self.queue, self.config.temperature)
        self._newest = keys if self.config.enqueue == "keys" else queries.detach()
        return loss, {"positive_accuracy": accuracy}

    def after_step(self, progress: float) -> None:
        """Update the teacher and enqueue the batch."""
        self.teacher.ema_update(self, self.config.momentum)
        assert self._newest is not None
        size = len(self.queue)
        # Not more, since a batch larger than the queue would write some rows twice.
        rows = all_gather(self._newest)[-size:]
        index = (self.position + torch.arange(len(rows), device=rows.device)) % size
        self.queue[index] = rows
        self.position.copy_((self.position + len(rows)) % size)
        self._newest = None


@dataclass(frozen=True, kw_only=True)
class MoCoV2Config(MethodConfig):
    """Settings of MoCo v2; the projector has two layers: features, features, 128.

    Attributes:
        temperature: Divisor of the cosine similarities.
        momentum: The teacher's EMA momentum.
        queue_size: Keys in the queue.
        enqueue: What enters the queue: `keys`, as in the paper, or `queries`, as in the CASSLE and
            AugSelf authors' code (to reproduce their numbers).
    """

    name: ClassVar[str] = "mocov2"
    method_class: ClassVar[type[Method]] = MoCoV2
    temperature: Annotated[float, POSITIVE] = 0.2
    momentum: Annotated[float, Range(0, 1)] = 0.999
    queue_size: Annotated[int, Range(1)] = 65536
    enqueue: Literal["keys", "queries"] = "keys"
