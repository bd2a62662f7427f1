"""Checks of settings that are lists to choose from."""

from collections.abc import Sequence

from cassle_zoo.common.errors import ConfigError


def check_distinct(name: str, values: Sequence[object]) -> None:
    """Check that a setting has at least one value, and none twice.

    Raises:
        ConfigError: Naming the setting and its values.
    """
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"{name} must be one or more different values, got {tuple(values)}.")
