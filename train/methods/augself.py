"""AugSelf (arXiv 2111.09613): predict from features how the augmentations of two views differ.

The paper's baseline with augmentation information: an auxiliary loss on top of any SSL method,
which is low only if the features retain information about the augmentations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS
from cassle_zoo.common.config import NOT_NEGATIVE, check_fields
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.projector import build_mlp
from cassle_zoo.train.methods.losses import in_full_precision

_ONE_PAIR = ((0, 1),)

Weight = Annotated[float, NOT_NEGATIVE]


@dataclass(frozen=True, kw_only=True)
class AugSelfConfig:
    """Weights of the predicted differences; all are 0, and AugSelf off, by default.

    Attributes:
        crop: Weight of the difference of crops; the AugSelf paper has 0.5.
        color: Weight of the difference of colour jitters; the AugSelf paper has 0.5.
        color_diff: Weight of the difference of mean colour changes.
        flip: Weight of predicting whether both views were flipped alike.
        blur: Weight of the difference of blurs.
        first_flip_for_both: Mirror both crops by the first view's flip instead of each by its own,
            as the authors' code does by mistake (to reproduce their numbers).

    Raises:
        ConfigError: If a weight is negative or not finite, or `first_flip_for_both` is set without
            a weight for `crop`.
    """

    crop: Weight = 0.0
    color: Weight = 0.0
    color_diff: Weight = 0.0
    flip: Weight = 0.0
    blur: Weight = 0.0
    first_flip_for_both: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "augself.")
        if self.first_flip_for_both and self.crop == 0:
            raise ConfigError(
                "augself.first_flip_for_both changes only the difference of crops, but "
                "augself.crop is 0; give it a weight (the AugSelf paper has 0.5), or leave the "
                "switch out."
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weights that are not 0, by descriptor."""
        names = ("crop", "color", "color_diff", "flip", "blur")
        return {name: getattr(self, name) for name in names if getattr(self, name) > 0}


class AugSelf(nn.Module):
    """Heads that predict differences, and their loss.

    Attributes:
        heads: For each descriptor a three-layer MLP from two features to the difference.
    """

    def __init__(
        self, config: AugSelfConfig, in_features: int, hidden_features: int | None = None
    ) -> None:
        """Build a head for each descriptor that has a weight.

        Args:
            config: The weights.
            in_features: Width of the backbone's features.
            hidden_features: Width of the heads' hidden layers; `None` means `in_features`.
        """
        super().__init__()
        self.config = config
        hidden = in_features if hidden_features is None else hidden_features
        self.heads = nn.ModuleDict(
            {
                name: build_mlp((2 * in_features, hidden, hidden, ALL_DESCRIPTORS.widths[name]))
                for name in config.weights
            }
        )

    def forward(
        self,
        features: Sequence[Tensor],
        descriptors: Sequence[Tensor] | None,
        pairs: Sequence[tuple[int, int]] = _ONE_PAIR,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss, and each descriptor's loss for the logs: means over the pairs.

        Args:
            features: (B, F) features of each view. The second may come from a method's teacher.
            descriptors: Each view's (B, 14) omegas in the columns of ALL_DESCRIPTORS.
            pairs: Indices of the views whose difference is predicted; from `Views.pairs`.

        Raises:
            ConfigError: If there are no descriptors.
        """
        if descriptors is None:
            raise ConfigError("AugSelf needs Views.all_descriptors, which views.make_views sets.")
        alike = self.config.first_flip_for_both
        found = []
        for a, b in pairs:
            forth = differences(descriptors[a], descriptors[b], first_flip_for_both=alike)
            back = differences(descriptors[b], descriptors[a], first_flip_for_both=alike)
            targets = {name: torch.cat([forth[name], back[name]]) for name in self.heads}
            found.append(self.loss((features[a], features[b]), targets))
        losses, logs = zip(*found, strict=True)
        means = {name: torch.stack([own[name] for own in logs]).mean() for name in logs[0]}
        return torch.stack(losses).mean(), means

    def loss(
        self, features: tuple[Tensor, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss and its parts for given differences.

        Args:
            features: (B, F) features of both views.
            targets: By descriptor, (2B, W): first the B differences of first and second views, then
                those of second and first views.
        """
        y1, y2 = features
        pairs = torch.cat([torch.cat([y1, y2], dim=1), torch.cat([y2, y1], dim=1)])
        total = pairs.new_zeros(())
        logs: dict[str, Tensor] = {}
        for name, weight in self.config.weights.items():
            value = difference_loss(self.heads[name](pairs), targets[name], name)
            total = total + weight * value
            logs[f"augself_{name}"] = value
        return total, logs


@in_full_precision
def difference_loss(outputs: Tensor, targets: Tensor, name: str) -> Tensor:
    """Return a head's loss: cross-entropy for `flip`, squared error after a tanh for the others.

    Args:
        outputs: (B, W) of the head.
        targets: (B, W) differences.
        name: The descriptor.
    """
    targets = targets.to(outputs.dtype)
    if name == "flip":
        return F.binary_cross_entropy_with_logits(outputs, targets)
    return F.mse_loss(outputs.tanh(), targets)


def differences(
    first: Tensor, second: Tensor, *, first_flip_for_both: bool = False
) -> dict[str, Tensor]:
    """Return how the augmentations of two views differ.

    Args:
        first: (B, 14) descriptors of the first views, columns as in ALL_DESCRIPTORS.
        second: (B, 14) descriptors of the second views.
        first_flip_for_both: Mirror both crops by the first view's flip, as the authors' code does.

    Returns:
        By descriptor, (B, W): the first's minus the second's; for `flip` 1 where both views were
        flipped or neither was, else 0.
    """
    columns = ALL_DESCRIPTORS.slices()
    result = {
        name: first[:, columns[name]] - second[:, columns[name]]
        for name in ("blur", "color", "color_diff", "crop")
    }
    alike = first[:, columns["flip"]] == second[:, columns["flip"]]
    result["flip"] = alike.to(first.dtype)
    if first_flip_for_both:
        centre_x = columns["crop"].start + 1
        mirrored = torch.where(alike[:, 0], second[:, centre_x], 1 - second[:, centre_x])
        result["crop"][:, 1] = first[:, centre_x] - mirrored
    return result
