"""DINO (arXiv 2104.14294): agree with the teacher on which prototypes an image resembles."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from cassle_zoo.common.config import NOT_NEGATIVE, POSITIVE, Range
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.train.distributed.process_group import all_reduce, world_size
from cassle_zoo.train.methods.base import Method, MethodConfig, PerView, Views
from cassle_zoo.train.methods.losses import dino_loss, dino_targets, prototype_scores
from cassle_zoo.train.methods.teacher import EMATeacher


class Prototypes(nn.Linear):
    """The head's last layer: K directions that projections are compared with.

    A linear layer without bias, whose rows and inputs are L2-normalised; the paper's layer with
    weight normalisation of fixed gain 1.
    """

    def __init__(self, in_features: int, count: int) -> None:
        super().__init__(in_features, count, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the (B, K) cosine similarities of (B, D) projections, in their precision."""
        return prototype_scores(input, self.weight)


class DINO(Method):
    """Cross-entropy between the teacher's distribution for one view and the student's for another.

    The teacher sees the global views, the student all of them. Centring keeps the teacher from
    preferring one prototype for all images, sharpening from preferring none.

    Attributes:
        last_layer: The prototypes.
        teacher: Makes the targets.
        center: (K,) moving average of the teacher's scores.
    """

    config: "DINOConfig"
    center: Tensor

    def __init__(
        self, backbone: nn.Module, projector: ProjectorConfig, config: "DINOConfig"
    ) -> None:
        super().__init__(backbone, projector, config)
        self.last_layer = Prototypes(projector.out_features, config.prototypes)
        self.teacher = EMATeacher(self, "last_layer")
        self.register_buffer("center", torch.zeros(config.prototypes))
        self._means: list[Tensor] = []  # of the teacher's scores since the last step
        self.before_step(0.0, 0.0)

    def before_step(self, epoch: float, progress: float) -> None:
        """Set the teacher's temperature and momentum, and whether the last layer is frozen."""
        self._temperature = self.config.teacher_temperature_at(int(epoch))
        rest = (1 - self.config.momentum) * (math.cos(math.pi * progress) + 1) / 2
        self._momentum = 1 - rest
        self._frozen = epoch < self.config.freeze_last_layer_epochs

    def objective(self, features: PerView, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and two entropies that show a collapse, as fractions of log(K).

        `teacher_entropy` is the mean entropy of the targets and `marginal_entropy` that of their
        mean. Both near 1: every image gets the same, uniform target. `marginal_entropy` near 0:
        every image gets the same prototype.
        """
        scores = torch.stack([self.last_layer(z) for z in self.project(features, views)])
        with torch.no_grad():
            teacher_layer = self.teacher.get_submodule("last_layer")
            theirs = torch.stack([teacher_layer(z) for z in self.teacher(views.without_local())])
            targets = dino_targets(theirs, self.center, self._temperature)
            mean = all_reduce(theirs.mean(dim=(0, 1))) / world_size()
            marginal = all_reduce(targets.mean(dim=(0, 1))) / world_size()
            logs = {
                "teacher_entropy": _entropy(targets).mean(),
                "marginal_entropy": _entropy(marginal),
            }
        if self.training:
            self._means.append(mean)
        return dino_loss(scores, targets, self.config.temperature), logs

    def before_update(self) -> None:
        """Give the frozen last layer no gradient, so that the optimiser skips it."""
        if self._frozen:
            self.last_layer.weight.grad = None

    def after_step(self, progress: float) -> None:
        """Update the teacher, ever more slowly, and the centre."""
        self.teacher.ema_update(self, self._momentum)
        momentum = self.config.center_momentum
        self.center.mul_(momentum).add_(torch.stack(self._means).mean(dim=0), alpha=1 - momentum)
        self._means.clear()


def _entropy(probabilities: Tensor) -> Tensor:
    """Return the entropies of (..., K) distributions, as fractions of log(K)."""
    entropy: Tensor = torch.special.entr(probabilities).sum(dim=-1)
    return entropy / math.log(probabilities.shape[-1])


@dataclass(frozen=True, kw_only=True)
class DINOConfig(MethodConfig):
    """Settings of DINO.

    The head is the projector, three layers of 2048, 2048 and 256 (the bottleneck), and after it the
    prototypes. Like the other methods' projectors, and unlike the paper's with GELU, it has
    BatchNorm and ReLU.

    Attributes:
        prototypes: K, the width of the last layer. 65536 is the paper's, for ImageNet; small
            data needs fewer (the emoji64 recipe has 4096).
        temperature: The student's.
        teacher_temperature: The teacher's, after the warm-up.
        warmup_teacher_temperature: The teacher's in the first epoch.
        warmup_teacher_epochs: Epochs in which it rises linearly, once per epoch; 0 for none.
        center_momentum: EMA momentum of the centre.
        momentum: The teacher's EMA momentum at the start of training; it rises to 1 along a cosine.
        freeze_last_layer_epochs: Epochs in which the prototypes do not learn.
    """

    name: ClassVar[str] = "dino"
    method_class: ClassVar[type[Method]] = DINO
    multi_view: ClassVar[bool] = True
    depth: Annotated[int, Range(1)] = 3
    hidden_features: Annotated[int | None, Range(1)] = 2048
    out_features: Annotated[int, Range(1)] = 256
    prototypes: Annotated[int, Range(2)] = 65536
    temperature: Annotated[float, POSITIVE] = 0.1
    teacher_temperature: Annotated[float, POSITIVE] = 0.07
    warmup_teacher_temperature: Annotated[float, POSITIVE] = 0.04
    warmup_teacher_epochs: Annotated[int, Range(0)] = 30
    center_momentum: Annotated[float, Range(0, 1)] = 0.9
    momentum: Annotated[float, Range(0, 1)] = 0.996
    freeze_last_layer_epochs: Annotated[float, NOT_NEGATIVE] = 1.0

    def teacher_temperature_at(self, epoch: int) -> float:
        """Return the teacher's temperature in an epoch, counted from 0."""
        if epoch >= self.warmup_teacher_epochs:
            return self.teacher_temperature
        rise = self.teacher_temperature - self.warmup_teacher_temperature
        return self.warmup_teacher_temperature + rise * epoch / max(
            self.warmup_teacher_epochs - 1, 1
        )
