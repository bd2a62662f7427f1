import hashlib
import json
import re

import pytest

from cassle_zoo import create_projector, specs
from cassle_zoo.common.errors import UnknownNameError
from cassle_zoo.specs import (
    DATASETS,
    MODEL_SPECS,
    PROJECTORS,
    STARTING_WEIGHTS,
    model_tags,
    resolve_spec,
)
from cassle_zoo.store.folder import MODEL_FILE, PROJECTOR_FILE, bundled_folder, read_config
from cassle_zoo.train.recipes import get_recipe

COMMIT = re.compile("[0-9a-f]{40}")
RELEASED = [name for name, spec in MODEL_SPECS.items() if spec.released]


def test_names_say_architecture_conditioning_method_and_data() -> None:
    for full_name, spec in MODEL_SPECS.items():
        middle = "_cassle_" if spec.conditioned else "_"
        assert full_name == f"{spec.arch}{middle}{spec.method}.{spec.tag}" == spec.full_name
        assert spec.method in PROJECTORS
        if spec.init:
            assert spec.init in STARTING_WEIGHTS
        else:
            assert spec.input_size == DATASETS[spec.data].input_size


def test_the_models_of_the_first_release_are_there() -> None:
    assert {
        f"{arch}_{method}.{tag}"
        for arch, tags in (("resnet18", ("emoji64", "stl10")), ("resnet50", ("emoji64", "in100")))
        for method in ("simclr", "cassle_simclr")
        for tag in tags
    } <= set(MODEL_SPECS)


def test_the_papers_models_are_there() -> None:
    assert {
        f"{arch}_{conditioned}{method}.in100"
        for arch, methods in (
            ("resnet50", ("simclr", "mocov2", "mocov3", "barlow_twins")),
            ("vit_small", ("mocov3",)),
            ("vit_base", ("mocov3",)),
        )
        for method in methods
        for conditioned in ("cassle_", "")
    } == {name for name, spec in MODEL_SPECS.items() if spec.tag == "in100"}


def test_a_name_without_tag_means_its_first_tag() -> None:
    assert model_tags("resnet50_cassle_simclr")[0] == "emoji64"
    assert resolve_spec("resnet50_cassle_simclr").full_name == "resnet50_cassle_simclr.emoji64"
    assert resolve_spec("resnet50_cassle_simclr.in100").tag == "in100"


def test_models_on_the_hub_are_pinned_to_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    name, repo, commit = "resnet18_simclr.emoji64", "org/resnet18", "0123456789" * 4
    monkeypatch.setattr(specs, "_HUB", {name: (repo, commit)})
    spec = specs._spec("resnet18", "simclr", conditioned=False, tag="emoji64")
    assert (spec.full_name, spec.hub_repo, spec.hub_revision) == (name, repo, commit)
    for other in (spec, *MODEL_SPECS.values()):
        assert (other.hub_repo is None) == (other.hub_revision is None)
        assert other.hub_revision is None or COMMIT.fullmatch(other.hub_revision)


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean '?resnet50_cassle_simclr'"):
        resolve_spec("resnet50_casle_simclr")
    with pytest.raises(UnknownNameError, match=r"resnet18_cassle_simclr\.emoji64"):
        resolve_spec("resnet18_cassle_simcrl.emoji64")


def test_an_unknown_tag_lists_the_tags() -> None:
    with pytest.raises(UnknownNameError, match=r"tag of resnet18_cassle_simclr 'in100'.*stl10"):
        resolve_spec("resnet18_cassle_simclr.in100")


@pytest.mark.parametrize("name", RELEASED)
def test_bundled_files_have_the_published_hashes(name: str) -> None:
    spec = MODEL_SPECS[name]
    folder = bundled_folder(spec)
    assert spec.sha256 is not None
    assert {MODEL_FILE, PROJECTOR_FILE, "config.json"} <= set(spec.sha256)
    for file, expected in spec.sha256.items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == expected
    config = read_config(folder)
    assert config["cassle_zoo"]["name"] == name
    assert config["architecture"] == spec.timm_arch
    assert tuple(config["pretrained_cfg"]["mean"]) == spec.mean


@pytest.mark.parametrize("name", MODEL_SPECS)
def test_the_recipe_trains_what_the_spec_says(name: str) -> None:
    spec, recipe = MODEL_SPECS[name], get_recipe(MODEL_SPECS[name].recipe)
    # The short name of an adapted model is not one that a training knows.
    arch = spec.timm_arch if spec.init else spec.arch
    assert (recipe.name, recipe.arch, recipe.method.name) == (name, arch, spec.method)
    assert bool(recipe.init) == bool(spec.init)
    assert recipe.is_conditioned == spec.conditioned
    size = recipe.augment.size
    assert (3, size, size) == spec.input_size
    assert (recipe.augment.mean, recipe.augment.std) == (spec.mean, spec.std)
    trained = recipe.method.projector(spec.num_features, recipe.conditioning)
    assert trained == create_projector(name).config
    assert json.loads(json.dumps(recipe.to_dict()))
