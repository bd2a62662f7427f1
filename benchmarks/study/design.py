"""What the study trains and compares, as data."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS
from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods.augself import AugSelfConfig
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.recipes import get_recipe, without_conditioning

GRID, MAIN, UNTRAINED, METHODS = "grid", "main", "untrained", "methods"
REFERENCE, CONDITIONING, OMEGA, DEPTH = "reference", "conditioning", "omega", "depth"
GROUPS = (GRID, MAIN, UNTRAINED, METHODS, REFERENCE, CONDITIONING, OMEGA, DEPTH)
"""Parts of the study, the most important first."""

GRID_LR = (0.12, 0.24, 0.48)
GRID_WEIGHT_DECAY = (1e-4, 5e-4)
CONDITIONINGS = ("add", "mul", "hypernet", "hypernet_bn", "raw_cat")
DEPTHS = (2, 4, 8)
OMEGAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "crop": ("crop",),
        "color": ("color",),
        "color-color_diff": ("color", "color_diff"),
        "crop-color": ("crop", "color"),
        "no-crop": tuple(name for name in PAPER_DESCRIPTORS if name != "crop"),
        "with-flip": (*PAPER_DESCRIPTORS, "flip"),
    }
)
"""Subsets of ω by name; `all` is what the main arm is told."""

_OTHER_METHODS = ("mocov2", "barlow_twins", "byol", "simsiam")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Hyper-parameters chosen for the baseline.

    Attributes:
        base_lr: Learning rate at batch 256.
        weight_decay: Weight decay.
    """

    base_lr: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the settings that are compared.

    Attributes:
        name: Unique; the models are called `NAME.emoji64`.
        group: One of `GROUPS`.
        against: Name of the arm that it is compared with, on equal seeds; empty if none.
        config: All settings, but for the seed and the place of the data.
        source: What is measured instead of a training, such as `raw-pixels`; then `config` plays no
            part.
    """

    name: str
    group: str
    against: str = ""
    config: TrainConfig
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """An arm with a seed: one training."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder and its record."""
        return f"{self.arm.name}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Design:
    """Budgets, and what follows from them.

    Attributes:
        epochs: Of the main arms and the other methods.
        grid_epochs: Of the trainings that the baseline's hyper-parameters are chosen on.
        ablation_epochs: Of the ablations. If that is not `epochs`, the baseline and CASSLE-SimCLR
            are trained as long once more, to compare with.
        seeds: Seeds of each main arm: 0, 1, ...; what is compared shares the initial backbone,
            order and augmentation.
        method_seeds: Seeds of each of the other methods.
        choose: Whether to choose learning rate and weight decay by the grid; else the recipe's.
        base: Settings of CASSLE-SimCLR.
    """

    epochs: Annotated[int, Range(1)] = 25
    grid_epochs: Annotated[int, Range(1)] = 10
    ablation_epochs: Annotated[int, Range(1)] = 10
    seeds: Annotated[int, Range(1)] = 3
    method_seeds: Annotated[int, Range(1)] = 1
    choose: bool = True
    base: TrainConfig = field(default_factory=lambda: get_recipe("resnet18_cassle_simclr.emoji64"))

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)

    def grid(self) -> tuple[Job, ...]:
        """Return the trainings of the baseline that its hyper-parameters are chosen on."""
        if not self.choose:
            return ()
        return tuple(
            Job(
                arm=self._arm(
                    f"{self._baseline}-lr{lr:g}-wd{decay:g}".replace(".", "_"),
                    GRID,
                    without_conditioning(self.base, self.base.name),
                    Choice(base_lr=lr, weight_decay=decay),
                ),
                seed=0,
            )
            for lr in GRID_LR
            for decay in GRID_WEIGHT_DECAY
        )

    def recipe_choice(self) -> Choice:
        """Return the recipe's own hyper-parameters."""
        optim = self.base.optim
        return Choice(base_lr=optim.base_lr, weight_decay=optim.weight_decay)

    def jobs(self, choice: Choice) -> tuple[Job, ...]:
        """Return all trainings but the grid's, the most important first.

        Args:
            choice: Hyper-parameters of SimCLR's arms, and of other methods as far as their recipes
                have SimCLR's.
        """
        main, methods = self._main(choice), tuple(self._methods(choice))
        others = sorted((*methods, *self._ablations(choice)), key=_is_expensive)
        return (
            *(Job(arm=arm, seed=seed) for seed in range(self.seeds) for arm in main),
            *self._untrained(),
            *(Job(arm=arm, seed=0) for arm in others),
            *(Job(arm=arm, seed=seed) for seed in range(1, self.method_seeds) for arm in methods),
        )

    @property
    def _baseline(self) -> str:
        return f"{self.base.arch}_simclr"

    @property
    def _cassle(self) -> str:
        return f"{self.base.arch}_cassle_simclr"

    def _main(self, choice: Choice) -> tuple[Arm, ...]:
        plain = without_conditioning(self.base, self.base.name)
        rival = dataclasses.replace(plain, augself=AugSelfConfig(crop=0.5, color=0.5))
        first = self._baseline
        return (
            self._arm(first, MAIN, plain, choice),
            self._arm(self._cassle, MAIN, self.base, choice, against=first),
            self._arm(f"{first}-augself", MAIN, rival, choice, against=first),
        )

    def _untrained(self) -> Iterator[Job]:
        for seed in range(self.seeds):
            yield self._measured(f"random-init:{self.base.arch}", seed)
        yield self._measured("raw-pixels", 0)

    def _measured(self, source: str, seed: int) -> Job:
        name = source.replace(":", "_")
        arm = Arm(name=name, group=UNTRAINED, config=self.base, source=source)
        return Job(arm=arm, seed=seed)

    def _methods(self, choice: Choice) -> Iterator[Arm]:
        for method in _OTHER_METHODS:
            config = get_recipe(f"resnet18_cassle_{method}.emoji64")
            yield from self._pair("resnet18", method, config, choice)
        yield from self._pair("vit_small", "mocov3", self._vit(), choice)

    def _pair(self, arch: str, method: str, config: TrainConfig, choice: Choice) -> Iterator[Arm]:
        name = f"{arch}_{method}"
        yield self._arm(name, METHODS, without_conditioning(config, config.name), choice)
        yield self._arm(f"{arch}_cassle_{method}", METHODS, config, choice, against=name)

    def _vit(self) -> TrainConfig:
        """MoCo-v3's ViT-S at 64 px: 16 patches, AdamW, teacher and warm-up fit for few steps."""
        paper = get_recipe("vit_small_cassle_mocov3.in100")
        optim = dataclasses.replace(
            paper.optim,
            batch_size=self.base.optim.batch_size,
            base_lr=1e-3,
            warmup_epochs=paper.optim.warmup_epochs / paper.optim.epochs * self.epochs,
        )
        return dataclasses.replace(
            self.base, arch="vit_small", method=MoCoV3Config(momentum=0.99), optim=optim
        )

    def _ablations(self, choice: Choice) -> Iterator[Arm]:
        changes: list[tuple[str, str, dict[str, Any]]] = [
            *((CONDITIONING, how, {"mode": how}) for how in CONDITIONINGS),
            *((OMEGA, subset, {"descriptors": names}) for subset, names in OMEGAS.items()),
            *((DEPTH, str(depth), {"depth": depth}) for depth in DEPTHS),
        ]
        against = self._cassle
        if self.ablation_epochs != self.epochs:
            baseline, against = (
                f"{arm}-{self.ablation_epochs}epochs" for arm in (self._baseline, self._cassle)
            )
            plain = without_conditioning(self.base, self.base.name)
            yield self._arm(baseline, REFERENCE, plain, choice)
            yield self._arm(against, REFERENCE, self.base, choice, against=baseline)
        for group, value, change in changes:
            conditioning = dataclasses.replace(self.base.conditioning, **change)
            config = dataclasses.replace(self.base, conditioning=conditioning)
            name = f"{self._cassle}-{group}-{value}"
            yield self._arm(name, group, config, choice, against=against)

    def _arm(
        self, name: str, group: str, config: TrainConfig, choice: Choice, against: str = ""
    ) -> Arm:
        """Give an arm its name, its budget, and what was chosen unless its recipe differs."""
        own, recipe = config.optim, self.base.optim
        chosen = {
            key: value
            for key, value in dataclasses.asdict(choice).items()
            if getattr(own, key) == getattr(recipe, key)
        }
        budgets = {GRID: self.grid_epochs, MAIN: self.epochs, METHODS: self.epochs}
        epochs = budgets.get(group, self.ablation_epochs)
        warmup = min(own.warmup_epochs, epochs)
        optim = dataclasses.replace(own, **chosen, epochs=epochs, warmup_epochs=warmup)
        settled = dataclasses.replace(config, name=f"{name}.emoji64", optim=optim)
        return Arm(name=name, group=group, against=against, config=settled)


def _is_expensive(arm: Arm) -> bool:
    """Whether a step takes several times as long as SimCLR's on a CPU."""
    return arm.config.arch.startswith("vit") or arm.config.conditioning.mode.startswith("hypernet")
