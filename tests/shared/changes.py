"""Runs that differ in one group of settings, and methods in small."""

import dataclasses
from typing import Any

from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods import METHODS, MethodConfig

_SMALL: dict[str, dict[str, Any]] = {
    "mocov2": {"queue_size": 10},
    "mocov3": {"predictor_features": 8},
    "byol": {"predictor_features": 8},
    "simsiam": {"predictor_features": 8},
    "dino": {"prototypes": 16, "warmup_teacher_epochs": 1, "freeze_last_layer_epochs": 0},
}


def change(config: TrainConfig, group: str, **changes: Any) -> TrainConfig:
    """Return a run with other settings in `group`."""
    new = dataclasses.replace(getattr(config, group), **changes)
    return dataclasses.replace(config, **{group: new})


def small_method(name: str) -> MethodConfig:
    """Return a method that costs next to nothing, for any of METHODS."""
    return METHODS[name](hidden_features=12, out_features=8, **_SMALL.get(name, {}))
