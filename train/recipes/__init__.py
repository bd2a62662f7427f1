"""Recipes: settings of published runs, and facts about them; one table per dataset."""

from cassle_zoo.common.errors import unknown_name
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.recipes import emoji64, imagenet100, stl10
from cassle_zoo.train.recipes.recipe import Recipe, without_conditioning

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for table in (emoji64.RECIPES, imagenet100.RECIPES, stl10.RECIPES)
    for recipe in table
}
"""Every recipe by the full name of the model that it produces."""


def get_recipe(name: str) -> TrainConfig:
    """Return the settings of the recipe `name`, the full name of the model that it produces.

    Raises:
        UnknownNameError: If there is no such recipe.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name].config


__all__ = ["RECIPES", "Recipe", "get_recipe", "without_conditioning"]
