"""Recipes: functions that return the settings of a published run."""

from collections.abc import Callable

from cassle_zoo.errors import unknown_name
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.recipes import emoji64, paper

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    **emoji64.RECIPES,
    "resnet50_cassle_simclr.in100": paper.resnet50_cassle_simclr_in100,
    "resnet50_simclr.in100": paper.resnet50_simclr_in100,
    "resnet18_cassle_simclr.stl10": paper.resnet18_cassle_simclr_stl10,
    "resnet18_simclr.stl10": paper.resnet18_simclr_stl10,
}


def get_recipe(name: str) -> TrainConfig:
    """Return the settings of the recipe `name`, the full name of the model it produces.

    Raises:
        UnknownNameError: If there is no such recipe.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
