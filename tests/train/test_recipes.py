import json

import pytest

from cassle_zoo.common.errors import UnknownNameError
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.train.methods import METHODS
from cassle_zoo.train.recipes import RECIPES, get_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_agree_with_the_registry(name: str) -> None:
    config, spec = get_recipe(name), MODEL_SPECS[name]
    assert config.name == name
    assert config.arch == spec.arch
    assert config.method.name == spec.method
    assert (config.conditioning.mode != "none") == spec.conditioned
    assert (3, config.augment.size, config.augment.size) == tuple(spec.input_size)
    assert (config.augment.mean, config.augment.std) == (spec.mean, spec.std)
    assert json.loads(json.dumps(config.to_dict()))


def test_every_registered_model_has_a_recipe() -> None:
    assert RECIPES.keys() == MODEL_SPECS.keys()


def test_the_command_line_trains_every_method() -> None:
    assert {get_recipe(name).method.name for name in RECIPES} == METHODS.keys()


def test_unknown_recipe() -> None:
    with pytest.raises(UnknownNameError, match=r"resnet18_cassle_simclr.emoji64"):
        get_recipe("resnet18_cassle_simclr.emoji")


@pytest.mark.parametrize("name", RECIPES)
def test_facts_of_a_recipe(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.command.startswith(f"cassle-zoo train {name} --data ")
    assert recipe.title.startswith("CASSLE-") == ("_cassle_" in name)
    assert recipe.config.arch in recipe.title
    assert f"{recipe.config.augment.size} px, {recipe.config.optim.epochs} epochs" in recipe.title
    assert any(digit.isdecimal() for digit in recipe.time)
    facts = str(recipe)
    for fact in (recipe.command, recipe.hardware, recipe.time, recipe.result or "not run yet"):
        assert fact in facts


@pytest.mark.parametrize("name", [name for name in RECIPES if "_cassle_" in name])
def test_a_baseline_differs_in_conditioning_alone(name: str) -> None:
    cassle, baseline = (get_recipe(n).to_dict() for n in (name, name.replace("_cassle_", "_")))
    assert {key for key in cassle if cassle[key] != baseline[key]} == {"name", "conditioning"}
