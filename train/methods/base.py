"""What every SSL method is: views in, loss and logs out. The loop knows nothing more."""

import abc
from dataclasses import dataclass

from torch import Tensor, nn

from cassle_zoo.descriptors import PAPER_DESCRIPTORS
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig


@dataclass(frozen=True, kw_only=True)
class Views:
    """Two augmented views of each of B pictures.

    Attributes:
        images: Two (B, 3, size, size) normalised views.
        descriptors: Their two (B, D) omegas.
    """

    images: tuple[Tensor, Tensor]
    descriptors: tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """How the projector is told about the augmentation (paper, figure 4).

    Attributes:
        how: `cat`, `add`, `mul`, `hypernet`, `raw_cat`, `raw_add`, `raw_mul`; `none` is the
            unconditioned baseline.
        descriptors: Names of the descriptors that make up omega.
        depth: Linear layers of the augmentation encoder.
        width: Width of the augmentation encoder.
    """

    how: str = "cat"
    descriptors: tuple[str, ...] = PAPER_DESCRIPTORS
    depth: int = 6
    width: int = 64


class Method(nn.Module, abc.ABC):
    """A self-supervised objective around a backbone.

    Attributes:
        backbone: Maps (B, 3, H, W) to (B, F) features.
        projector: Maps features and omega to the space of the loss.
    """

    def __init__(self, backbone: nn.Module, projector: ProjectorConfig) -> None:
        """Keep the backbone and build the projector."""
        super().__init__()
        self.backbone = backbone
        self.projector = ConditionedProjector(projector)

    @abc.abstractmethod
    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, a scalar, and scalars worth logging."""

    def after_step(self, progress: float) -> None:
        """Update what the optimiser does not (a teacher, say).

        Args:
            progress: Share of training that is done, in (0, 1].
        """
        del progress  # methods without a teacher have nothing to do

    def project(self, images: Tensor, descriptors: Tensor) -> Tensor:
        """Return the (B, D) projections of views."""
        projections: Tensor = self.projector(self.backbone(images), descriptors)
        return projections


@dataclass(frozen=True, kw_only=True)
class MethodConfig(abc.ABC):
    """Settings of a method; one subclass per method."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The method's name in model names."""

    @abc.abstractmethod
    def projector(self, in_features: int, conditioning: ConditioningConfig) -> ProjectorConfig:
        """Return the method's projector for a backbone of `in_features`."""

    @abc.abstractmethod
    def build(self, backbone: nn.Module, projector: ProjectorConfig) -> Method:
        """Return the method around a backbone."""
