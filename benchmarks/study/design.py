"""Design of the study: its arms, their budgets, and the jobs that follow from them."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

import tyro

from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS
from cassle_zoo.common.config import Range
from cassle_zoo.eval.base import Settings
from cassle_zoo.specs import RANDOM_INIT, RAW_PIXELS
from cassle_zoo.train.config import AUTO_NAME, TrainConfig
from cassle_zoo.train.methods.augself import AugSelfConfig
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.recipes import get_recipe, without_conditioning

GRID, MAIN, UNTRAINED, METHODS = "grid", "main", "untrained", "methods"
REFERENCE, CONDITIONING, OMEGA, DEPTH = "reference", "conditioning", "omega", "depth"
"""The groups, which are the parts of the study."""

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
"""Descriptors that the arms of the ablation of ω are conditioned on, by name."""

AUGSELF = AugSelfConfig(crop=0.5, color=0.5)
_OTHER_METHODS = ("mocov2", "barlow_twins", "byol", "simsiam")


@dataclass(frozen=True, kw_only=True)
class HyperParameters:
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
        name: Unique; its models are called `NAME.emoji64`.
        group: The part of the study.
        against: Name of the arm that it is compared with, seed by seed; empty if none.
        config: All settings except the seed and the path of the data.
        source: A source that is evaluated without training, such as `raw-pixels`; `config` is then
            not used.
    """

    name: str
    group: str
    against: str = ""
    config: TrainConfig
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training (or measurement) of an arm: the arm with a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder and its record."""
        return f"{self.arm.name}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Design(Settings):
    """Budgets of the study, and the jobs that follow from them.

    Attributes:
        epochs: Epochs of the main arms and of the other methods.
        grid_epochs: Epochs of the grid that learning rate and weight decay are chosen on.
        ablation_epochs: Epochs of the ablations. If they differ from `epochs`, the baseline and
            CASSLE-SimCLR are trained once more, for as long, to compare with.
        seeds: Seeds (0, 1, ...) of SimCLR, SimCLR + AugSelf and CASSLE-SimCLR; with equal seeds,
            arms share the initial backbone, the order of images and their augmentations.
        method_seeds: Seeds of each of the other methods.
        snapshot_every: Epochs between the snapshots of the main arms and of the other methods that
            are measured on validation images; 0: none.
        choose: Choose the baseline's learning rate and weight decay on the grid, instead of taking
            the recipe's.
        base: Settings of CASSLE-SimCLR.
    """

    epochs: Annotated[int, Range(1)] = 25
    grid_epochs: Annotated[int, Range(1)] = 10
    ablation_epochs: Annotated[int, Range(1)] = 10
    seeds: Annotated[int, Range(1)] = 3
    method_seeds: Annotated[int, Range(1)] = 1
    snapshot_every: Annotated[int, Range(0)] = 0
    choose: bool = True
    base: Annotated[TrainConfig, tyro.conf.Suppress] = field(
        default_factory=lambda: get_recipe("resnet18_cassle_simclr.emoji64")
    )

    def command(self) -> str:
        """Return the words of the command line that make this design."""
        return (
            f"run --epochs {self.epochs} --ablation-epochs {self.ablation_epochs} "
            + (f"--grid-epochs {self.grid_epochs}" if self.choose else "--no-choose")
            + f" --seeds {self.seeds} --method-seeds {self.method_seeds}"
            + (f" --snapshot-every {self.snapshot_every}" if self.snapshot_every else "")
        )

    def grid(self) -> tuple[Job, ...]:
        """Return the grid: trainings of the baseline with different hyper-parameters."""
        if not self.choose:
            return ()
        jobs = []
        for lr in GRID_LR:
            for decay in GRID_WEIGHT_DECAY:
                name = f"{self._baseline}-lr{lr:g}-wd{decay:g}".replace(".", "_")
                tried = HyperParameters(base_lr=lr, weight_decay=decay)
                jobs.append(Job(arm=self._tuned(self._arm(name, GRID, self._plain), tried), seed=0))
        return tuple(jobs)

    def recipe_hyper_parameters(self) -> HyperParameters:
        """Return the recipe's own hyper-parameters."""
        optim = self.base.optim
        return HyperParameters(base_lr=optim.base_lr, weight_decay=optim.weight_decay)

    def jobs(self, chosen: HyperParameters | None = None) -> tuple[Job, ...]:
        """Return all jobs except the grid's, the most important first.

        Args:
            chosen: Hyper-parameters of SimCLR's arms, and of the other methods where their recipes
                do not differ from SimCLR's; by default the recipe's.
        """
        chosen = chosen or self.recipe_hyper_parameters()
        main, methods, ablations = (
            [self._tuned(arm, chosen) for arm in arms]
            for arms in (self._main(), self._methods(), self._ablations())
        )
        others = sorted((*methods, *ablations), key=_is_expensive)
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

    @property
    def _plain(self) -> TrainConfig:
        return without_conditioning(self.base, AUTO_NAME)

    def _main(self) -> Iterator[Arm]:
        augself = dataclasses.replace(self._plain, augself=AUGSELF)
        yield self._arm(self._baseline, MAIN, self._plain)
        yield self._arm(self._cassle, MAIN, self.base, self._baseline)
        yield self._arm(f"{self._baseline}-augself", MAIN, augself, self._baseline)

    def _untrained(self) -> Iterator[Job]:
        sources = [(f"{RANDOM_INIT}{self.base.arch}", seed) for seed in range(self.seeds)]
        for source, seed in (*sources, (RAW_PIXELS, 0)):
            name = source.replace(":", "_")
            arm = Arm(name=name, group=UNTRAINED, config=self.base, source=source)
            yield Job(arm=arm, seed=seed)

    def _methods(self) -> Iterator[Arm]:
        both = dataclasses.replace(self.base, augself=AUGSELF)
        yield self._arm(f"{self._cassle}-augself", METHODS, both, f"{self._baseline}-augself")
        configs = {
            f"resnet18_{{}}{method}": get_recipe(f"resnet18_cassle_{method}.emoji64")
            for method in _OTHER_METHODS
        }
        configs["vit_small_{}mocov3"] = self._vit()
        for name, config in configs.items():
            plain, cassle = name.format(""), name.format("cassle_")
            yield self._arm(plain, METHODS, without_conditioning(config, AUTO_NAME))
            yield self._arm(cassle, METHODS, config, plain)

    def _vit(self) -> TrainConfig:
        """Return MoCo-v3's ViT-S at 64 px: 16 patches, AdamW; EMA and warm-up for few steps."""
        paper = get_recipe("vit_small_cassle_mocov3.in100")
        optim = dataclasses.replace(
            paper.optim,
            batch_size=self.base.optim.batch_size,
            base_lr=1e-3,
            warmup_epochs=paper.optim.warmup_epochs / paper.optim.epochs * self.epochs,
        )
        return dataclasses.replace(
            self.base,
            name=AUTO_NAME,
            arch="vit_small",
            method=MoCoV3Config(momentum=0.99),
            optim=optim,
        )

    def _ablations(self) -> Iterator[Arm]:
        against = self._cassle
        if self.ablation_epochs != self.epochs:
            baseline, against = (
                f"{arm}-{self.ablation_epochs}epochs" for arm in (self._baseline, self._cassle)
            )
            yield self._arm(baseline, REFERENCE, self._plain)
            yield self._arm(against, REFERENCE, self.base, baseline)
        changes: list[tuple[str, str, dict[str, Any]]] = [
            *((CONDITIONING, mode, {"mode": mode}) for mode in CONDITIONINGS),
            *((OMEGA, subset, {"descriptors": names}) for subset, names in OMEGAS.items()),
            *((DEPTH, str(depth), {"depth": depth}) for depth in DEPTHS),
        ]
        for group, value, change in changes:
            conditioning = dataclasses.replace(self.base.conditioning, **change)
            config = dataclasses.replace(self.base, conditioning=conditioning)
            yield self._arm(f"{self._cassle}-{group}-{value}", group, config, against)

    def _arm(self, name: str, group: str, config: TrainConfig, against: str = "") -> Arm:
        """Return an arm with its name and its budget."""
        budgets = {GRID: self.grid_epochs, MAIN: self.epochs, METHODS: self.epochs}
        epochs = budgets.get(group, self.ablation_epochs)
        warmup = min(config.optim.warmup_epochs, epochs)
        optim = dataclasses.replace(config.optim, epochs=epochs, warmup_epochs=warmup)
        run = config.run
        if group in (MAIN, METHODS):
            run = dataclasses.replace(run, snapshot_every=self.snapshot_every)
        config = dataclasses.replace(config, name=f"{name}.emoji64", optim=optim, run=run)
        return Arm(name=name, group=group, against=against, config=config)

    def _tuned(self, arm: Arm, chosen: HyperParameters) -> Arm:
        """Return an arm with `chosen`, except where its recipe differs from SimCLR's."""
        own, recipe = arm.config.optim, self.base.optim
        changes = {
            name: value
            for name, value in dataclasses.asdict(chosen).items()
            if getattr(own, name) == getattr(recipe, name)
        }
        config = dataclasses.replace(arm.config, optim=dataclasses.replace(own, **changes))
        return dataclasses.replace(arm, config=config)


def _is_expensive(arm: Arm) -> bool:
    """Return whether a step takes several times as long as one of SimCLR's on a CPU."""
    return arm.config.arch.startswith("vit") or arm.config.conditioning.mode.startswith("hypernet")
