"""Runs that differ in one group of settings."""

import dataclasses
from typing import Any

from cassle_zoo.train.config import TrainConfig


def change(config: TrainConfig, group: str, **changes: Any) -> TrainConfig:
    """Return a run with other settings in `group`."""
    new = dataclasses.replace(getattr(config, group), **changes)
    return dataclasses.replace(config, **{group: new})
