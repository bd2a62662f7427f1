import pytest

from cassle_zoo.common.errors import UnknownNameError
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.train.methods import METHODS
from cassle_zoo.train.methods.dino import DINOConfig
from cassle_zoo.train.recipes import RECIPES, find_recipe, get_recipe, shortened
from cassle_zoo.zoo.width import feature_width


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


@pytest.mark.parametrize(
    ("name", "arch", "method", "optimizer"),
    [
        ("resnet50_cassle_simclr", "resnet50", "simclr", "momentum"),
        ("mobilenetv3_small_050_cassle_mocov2", "mobilenetv3_small_050", "mocov2", "momentum"),
        ("resnet18_barlow_twins", "resnet18", "barlow_twins", "lars"),
        ("vit_small_cassle_mocov3", "vit_small", "mocov3", "adamw"),
        ("convnext_atto_byol", "convnext_atto", "byol", "adamw"),
    ],
)
def test_a_name_without_tag_is_for_own_images(
    name: str, arch: str, method: str, optimizer: str
) -> None:
    recipe = find_recipe(name)
    config = recipe.config
    assert (config.name, config.arch, config.method.name) == (f"{name}.mine", arch, method)
    assert (config.data.dataset, config.augment.size) == ("", 224)
    assert config.is_conditioned == ("_cassle_" in name)
    assert config.optim.optimizer == optimizer
    assert recipe.command == f"cassle-zoo train {name} --data DIR --out RUN"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_recipe_for_own_images(method: str) -> None:
    assert get_recipe(f"resnet18_cassle_{method}").method.name == method
    assert get_recipe(f"resnet18_{method}").conditioning.mode == "none"


@pytest.mark.parametrize("name", ["resnet18_dino", "resnet18_dino.adapt", "resnet18_dino.emoji64"])
def test_dinos_teacher_reaches_its_temperature(name: str) -> None:
    config = get_recipe(name)
    assert isinstance(config.method, DINOConfig)
    early, late = (round(part * config.optim.epochs) for part in (0.2, 0.4))
    assert config.method.teacher_temperature_at(early) < 0.07
    assert config.method.teacher_temperature_at(late) == 0.07


def test_features_wider_than_the_last_feature_map() -> None:
    config = get_recipe("mobilenetv3_small_050_cassle_simclr")
    width = feature_width(config.arch, {}, (3, 224, 224))
    assert config.method.projector(width, config.conditioning).in_features == 1024


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "'resnet18' is no recipe. .* ARCH_cassle_METHOD.*simclr, mocov2"),
        ("resnt18_simclr", "'resnt18_simclr' is no recipe. Did you mean 'resnet18_simclr'"),
        ("resnet18_cassle_simclr_simclr", "Did you mean 'resnet18_cassle_simclr'"),
        ("resnet18_cassle_simclr.photos", "For your own images leave out the tag: resnet18_cas"),
    ],
)
def test_names_that_are_no_recipe(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        get_recipe(name)


@pytest.mark.parametrize(
    ("epochs", "freeze", "warmup"),
    [(1, 0.25, 0.25), (3, 0.75, 0.75), (4, 1, 1), (20, 1, 1), (99, 1, 1)],
)
def test_freezing_and_warmup_leave_half_of_the_epochs(
    epochs: int, freeze: float, warmup: float
) -> None:
    config = shortened(get_recipe("resnet18_cassle_simclr.adapt"), epochs)
    assert config.optim.epochs == epochs
    assert (config.optim.freeze_epochs, config.optim.warmup_epochs) == (freeze, warmup)


def test_a_longest_start_is_left() -> None:
    config = get_recipe("resnet18_cassle_simclr")
    assert shortened(config, 5, longest=1.0).optim.warmup_epochs == 5
    assert shortened(config, 4, longest=1.0).optim.warmup_epochs == 2
