"""Recipes: functions that return the settings of a published run."""

from collections.abc import Callable

from cassle_zoo.common.errors import unknown_name
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.recipes import emoji64, paper

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    **emoji64.RECIPES,
    **paper.RECIPES,
}


def get_recipe(name: str) -> TrainConfig:
    """Return the settings of the recipe `name`, the full name of the model it produces.

    Raises:
        UnknownNameError: If there is no such recipe.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
