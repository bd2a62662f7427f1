"""The EMA teacher of MoCo, BYOL and DINO."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cassle_zoo.train.methods.base import Method, PerView, Views, in_float32


class EMATeacher(nn.Module):
    """Backbone and projector whose weights are an exponential moving average of a method's.

    Only parameters are averaged. The BatchNorm statistics are the teacher's own, from the batches
    it sees, and like the method it normalises with the batch's statistics during training.

    Attributes:
        backbone: Begins as a copy of the method's backbone.
        projector: Begins as a copy of the method's projector.
    """

    backbone: nn.Module
    projector: nn.Module

    def __init__(self, method: Method, *others: str) -> None:
        """Copy the method's backbone, projector and other sub-modules of these names."""
        super().__init__()
        for name in ("backbone", "projector", *others):
            self.add_module(name, copy.deepcopy(getattr(method, name)).requires_grad_(False))

    @torch.no_grad()
    def features(self, images: Tensor) -> Any:
        """Return the (B, F) features of images."""
        return self.backbone(images)

    @torch.no_grad()
    def project(self, features: Tensor, descriptors: Tensor) -> Tensor:
        """Return the (B, D) projections of features, in float32 or better."""
        return in_float32(self.projector(features, descriptors))

    def forward(self, views: Views) -> PerView:
        """Return the (B, D) projections of each view."""
        each = zip(views.images, views.descriptors, strict=True)
        return tuple(self.project(self.features(x), omega) for x, omega in each)

    @torch.no_grad()
    def ema_update(self, method: Method, momentum: float) -> None:
        """Set each parameter to momentum * itself + (1 - momentum) * the method's."""
        for name, mine in self.named_children():
            theirs = getattr(method, name)
            for p, target in zip(mine.parameters(), theirs.parameters(), strict=True):
                p.lerp_(target, 1 - momentum)
