"""The base class of SSL methods: views in, loss and logs out."""

import abc
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS, DescriptorLayout
from cassle_zoo.common.config import OneOf, Range, check_fields
from cassle_zoo.projector import CONDITIONINGS, ConditionedProjector, ProjectorConfig
from cassle_zoo.records import StartingWeights
from cassle_zoo.train.methods.augself import AugSelf

PerView = tuple[Tensor, ...]
"""A value for the first views, one for the second views, and so on."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """V augmented views of each of B images: global ones first, then local crops if there are any.

    Attributes:
        images: V (B, 3, size, size) normalised views; local crops have a smaller size.
        descriptors: Their V (B, D) omegas, as the projector takes them.
        all_descriptors: Their V (B, 14) omegas of all descriptors. Only AugSelf needs them: it
            may predict descriptors that the projector is not conditioned on.
        local: How many of the views, the last ones, are local crops.
    """

    images: PerView
    descriptors: PerView
    all_descriptors: PerView | None = None
    local: int = 0

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Indices of the views that are compared: any two, unless both are local crops."""
        first = range(len(self.images) - self.local)
        return [(a, b) for a in first for b in range(a + 1, len(self.images))]

    def without_local(self) -> "Views":
        """Return the global views."""
        count = len(self.images) - self.local
        return Views(images=self.images[:count], descriptors=self.descriptors[:count])


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """How the projector is conditioned on the augmentation (paper, figure 4).

    Attributes:
        mode: `cat`, `add`, `mul`, `hypernet`, `hypernet_bn`, `raw_cat`, `raw_add`, `raw_mul`;
            `none` is the unconditioned baseline. `hypernet` has no BatchNorm, so it omits the one
            at the end of the projectors of mocov3, barlow_twins and simsiam, as does the paper's
            code.
        descriptors: Names of the descriptors that make up omega.
        depth: Linear layers of the augmentation encoder.
        width: Width of the augmentation encoder.
    """

    mode: Annotated[str, OneOf(CONDITIONINGS)] = "cat"
    descriptors: tuple[str, ...] = PAPER_DESCRIPTORS
    depth: Annotated[int, Range(1)] = 6
    width: Annotated[int, Range(1)] = 64

    def __post_init__(self) -> None:
        check_fields(self, "conditioning.")
        DescriptorLayout(self.descriptors)


ParamGroup = dict[str, Any]
"""A group of parameters as torch's optimisers take it, with two options of our own: `lr_scale`, a
factor on the learning rate, and `constant_lr`, with which that stays at its peak instead of
following the schedule."""


class Method(nn.Module, abc.ABC):
    """A self-supervised objective around a backbone.

    Everything that training changes (teachers, queues) is a sub-module or a buffer, so checkpoints
    hold it.

    Attributes:
        config: Settings of the method; subclasses narrow the type.
        backbone: Maps (B, 3, H, W) to (B, F) features.
        projector: Maps features and omega to the space of the loss.
        augself: Auxiliary objective on the features, if there is one.
        starting_weights: What backbone and perhaps projector started from, if not random weights.
    """

    config: "MethodConfig"
    augself: AugSelf | None
    starting_weights: StartingWeights | None = None

    def __init__(
        self, backbone: nn.Module, projector: ProjectorConfig, config: "MethodConfig"
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.projector = ConditionedProjector(projector)
        self.augself = None

    def forward(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, a scalar, and scalars worth logging."""
        features = self.features(views)
        loss, logs = self.objective(features, views)
        if self.augself is not None:
            extra, extra_logs = self.augself(features, views.all_descriptors, views.pairs)
            return loss + extra, {**logs, **extra_logs}
        return loss, logs

    def features(self, views: Views) -> PerView:
        """Return the (B, F) features of each view."""
        return tuple(self.backbone(images) for images in views.images)

    @abc.abstractmethod
    def objective(self, features: PerView, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the method's loss, given the backbone's features, and scalars worth logging."""

    def project(self, features: PerView, views: Views) -> PerView:
        """Return the (B, D) projections of each view, in float32 or better."""
        each = zip(features, views.descriptors, strict=True)
        return tuple(in_float32(self.projector(y, omega)) for y, omega in each)

    def before_step(self, epoch: float, progress: float) -> None:
        """Set values that follow a schedule, before the forward pass.

        Args:
            epoch: Epochs done; 1.5 is half-way through the second.
            progress: Fraction of training done, in [0, 1).
        """
        del epoch, progress  # most methods have no schedule

    def before_update(self) -> None:
        """Change gradients, after the backward pass and before the optimiser's step."""

    def after_step(self, progress: float) -> None:
        """Update what the optimiser does not, such as a teacher.

        Args:
            progress: Fraction of training done, in (0, 1].
        """
        del progress  # methods without a teacher have nothing to do

    def param_groups(self) -> list[ParamGroup]:
        """Return all trainable parameters, grouped by their learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings of a method; one subclass per method, which sets its own defaults.

    Attributes:
        name: The method's name in model names.
        method_class: The method itself.
        last_bn: Whether a BatchNorm follows the projector's last layer, except with `hypernet`.
        last_bn_affine: Whether that BatchNorm has weight and bias.
        multi_view: Whether the method takes more than two views, and local crops.
        depth: Linear layers of the projector.
        hidden_features: Width of the projector's hidden layers; `None` means the backbone's.
        out_features: Width of the projection.

    Raises:
        ConfigError: If a value is out of its range.
    """

    name: ClassVar[str]
    method_class: ClassVar[type[Method]]
    last_bn: ClassVar[bool] = False
    last_bn_affine: ClassVar[bool] = True
    multi_view: ClassVar[bool] = False
    depth: Annotated[int, Range(1)] = 2
    hidden_features: Annotated[int | None, Range(1)] = None
    out_features: Annotated[int, Range(1)] = 128

    def __post_init__(self) -> None:
        check_fields(self, "method.")

    def projector(self, in_features: int, conditioning: ConditioningConfig) -> ProjectorConfig:
        """Return the method's projector for a backbone of `in_features`.

        Raises:
            ConfigError: If the method, the conditioning and the width do not go together.
        """
        return ProjectorConfig(
            in_features=in_features,
            depth=self.depth,
            hidden_features=self.hidden_features,
            out_features=self.out_features,
            last_bn=self.last_bn and conditioning.mode != "hypernet",
            last_bn_affine=self.last_bn_affine,
            conditioning=conditioning.mode,
            descriptors=conditioning.descriptors,
            encoder_depth=conditioning.depth,
            encoder_width=conditioning.width,
        )

    def build(self, backbone: nn.Module, projector: ProjectorConfig) -> Method:
        """Return the method around a backbone."""
        return self.method_class(backbone, projector, self)


def in_float32(x: Any) -> Tensor:
    """Undo autocast's reduced precision; leave float32 and float64 as they are."""
    assert isinstance(x, Tensor)
    return x.float() if x.dtype.itemsize < 4 else x
