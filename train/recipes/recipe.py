"""The recipe of a run, and the baseline of every CASSLE recipe."""

import dataclasses
from dataclasses import dataclass

from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods import ConditioningConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a published run, and facts about it.

    Attributes:
        title: Method, network, data and length, in words.
        config: All settings.
        data: Value of `--data`, for example `emoji64.tar`, or `DIR` for a folder.
        hardware: Hardware of the run, or the hardware it needs.
        time: Duration there.
        result: Measured result; `None` if it has not been run.
        notes: Other facts, in full sentences.
        called: Its name on the command line; by default the full name of the model.
    """

    title: str
    config: TrainConfig
    data: str
    hardware: str
    time: str
    result: str | None = None
    notes: str = ""
    called: str = ""

    @property
    def name(self) -> str:
        """Full name of the model that it produces."""
        return self.config.name

    @property
    def command(self) -> str:
        """Command line of the run."""
        return f"cassle-zoo train {self.called or self.name} --data {self.data} --out RUN"

    def __str__(self) -> str:
        facts = {
            "Command": self.command,
            "Hardware": self.hardware,
            "Time": self.time,
            "Result": self.result or "not run yet",
        }
        lines = [f"{self.title}."] + [self.notes] * bool(self.notes)
        return "\n".join([*lines, *(f"{name}: {value}" for name, value in facts.items())])

    def baseline(self, result: str | None = None) -> "Recipe":
        """Return the recipe of the baseline, a run like this one with a plain projector.

        Args:
            result: Measured result of the baseline.
        """
        return dataclasses.replace(
            self,
            title=self.title.removeprefix("CASSLE-"),
            config=without_conditioning(self.config, self.name.replace("_cassle_", "_")),
            result=result,
        )


def without_conditioning(config: TrainConfig, name: str) -> TrainConfig:
    """Return the same settings with a plain projector.

    Args:
        config: Settings of a CASSLE run.
        name: Name of the model that the baseline produces.
    """
    plain = ConditioningConfig(mode="none", descriptors=())
    return dataclasses.replace(config, name=name, conditioning=plain)


def shortened(config: TrainConfig, epochs: int, *, longest: float = 0.5) -> TrainConfig:
    """Return the settings for fewer epochs, with a start short enough to leave time to train.

    Args:
        config: Settings of a recipe.
        epochs: Epochs instead of the recipe's.
        longest: The largest fraction of the epochs that freezing and warm-up may last together; if
            they are longer, both are shortened, in proportion, to half of the epochs.
    """
    optim = config.optim
    start = optim.freeze_epochs + optim.warmup_epochs
    factor = epochs / 2 / start if start > longest * epochs else 1.0
    shorter = dataclasses.replace(
        optim,
        epochs=epochs,
        freeze_epochs=optim.freeze_epochs * factor,
        warmup_epochs=optim.warmup_epochs * factor,
    )
    return dataclasses.replace(config, optim=shorter)
