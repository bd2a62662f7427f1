"""The EMA teacher of MoCo and BYOL."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cassle_zoo.train.methods.base import Method, Pair, Views, in_float32


class EMATeacher(nn.Module):
    """Backbone and projector whose weights are an exponential moving average of a method's.

    Only parameters are averaged. The BatchNorm statistics are the teacher's own, from the batches
    it sees, and like the method it normalises with the batch's statistics during training.

    Attributes:
        backbone: Begins as a copy of the method's backbone.
        projector: Begins as a copy of the method's projector.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(method.backbone).requires_grad_(False)
        self.projector = copy.deepcopy(method.projector).requires_grad_(False)

    @torch.no_grad()
    def features(self, images: Tensor) -> Any:
        """Return the (B, F) features of images."""
        return self.backbone(images)

    @torch.no_grad()
    def project(self, features: Tensor, descriptors: Tensor) -> Tensor:
        """Return the (B, D) projections of features, in float32 or better."""
        return in_float32(self.projector(features, descriptors))

    def forward(self, views: Views) -> Pair:
        """Return the (B, D) projections of both views."""
        (x1, x2), (omega1, omega2) = views.images, views.descriptors
        return self.project(self.features(x1), omega1), self.project(self.features(x2), omega2)

    @torch.no_grad()
    def ema_update(self, method: Method, momentum: float) -> None:
        """Set each parameter to momentum * itself + (1 - momentum) * the method's."""
        pairs = ((self.backbone, method.backbone), (self.projector, method.projector))
        for mine, theirs in pairs:
            for p, target in zip(mine.parameters(), theirs.parameters(), strict=True):
                p.lerp_(target, 1 - momentum)
