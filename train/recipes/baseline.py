"""The baseline that every CASSLE recipe is compared with."""

import dataclasses

from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods import ConditioningConfig


def without_conditioning(config: TrainConfig, name: str) -> TrainConfig:
    """Return the same settings with a plain projector.

    Args:
        config: A CASSLE recipe.
        name: Name of the model that the baseline produces.
    """
    plain = ConditioningConfig(how="none", descriptors=())
    return dataclasses.replace(config, name=name, conditioning=plain)
