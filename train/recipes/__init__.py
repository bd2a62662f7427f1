"""Recipes: settings of published runs, one table per dataset, and settings for one's own images.

A name with a tag is a published model's: `resnet18_cassle_simclr.emoji64`. Without a tag it is a
run on one's own images, with any timm architecture: `convnext_tiny_cassle_simclr`; with `.adapt`,
such a run from starting weights.
"""

from cassle_zoo.common.errors import UnknownNameError, unknown_name
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.recipes import emoji64, imagenet100, stl10
from cassle_zoo.train.recipes.adapt import TAG as ADAPT
from cassle_zoo.train.recipes.adapt import adapt_recipe
from cassle_zoo.train.recipes.own import own_recipe
from cassle_zoo.train.recipes.recipe import Recipe, shortened, without_conditioning

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for table in (emoji64.RECIPES, imagenet100.RECIPES, stl10.RECIPES)
    for recipe in table
}
"""Every recipe of a published model, by its full name."""

LISTED_BY = "cassle-zoo train --help"


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Args:
        name: Full name of a published model; or, for one's own images, `ARCH_cassle_METHOD` or
            `ARCH_METHOD` without a tag, or `ARCH_cassle_METHOD.adapt` to adapt starting weights.

    Raises:
        UnknownNameError: If there is no such recipe, architecture or method.
    """
    if name in RECIPES:
        return RECIPES[name]
    if "." not in name:
        return own_recipe(name)
    if name.endswith(ADAPT):
        return adapt_recipe(name)
    error = unknown_name("recipe", name, RECIPES, listed_by=LISTED_BY)
    raise UnknownNameError(
        f"{error} For your own images leave out the tag: {name.partition('.')[0]} (--tag names it)."
    )


def get_recipe(name: str) -> TrainConfig:
    """Return the settings of the recipe `name`; see :func:`find_recipe`."""
    return find_recipe(name).config


__all__ = [
    "ADAPT",
    "RECIPES",
    "Recipe",
    "find_recipe",
    "get_recipe",
    "shortened",
    "without_conditioning",
]
