"""`cassle-zoo reproduce`: training, export and evaluation again, and the comparison."""

import dataclasses
from pathlib import Path

import pytest
from results import make_result
from tiny_study import small_design

from cassle_zoo.cli import reproduce
from cassle_zoo.cli.main import main
from cassle_zoo.cli.reproduce import (
    TOLERANCES,
    UNTRAINED_TOLERANCE,
    compare,
    find_recorded,
    recorded_results,
    recorded_settings,
    training_config,
)
from cassle_zoo.common.errors import ConfigError, UnknownNameError
from cassle_zoo.common.files import read_json
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.records import MeasuredData, MeasuredModel, Result
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.recipes import RECIPES

NAME = "resnet18_cassle_simclr.emoji64"
TRAINED = [name for name in recorded_results() if name in MODEL_SPECS]


@pytest.fixture
def result() -> Result:
    metrics = {"flags": {"recall@1": 0.25}}
    return make_result(NAME, data_sha256="0", metrics=metrics, protocol={}, command="")


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """The recipe of NAME is a small network's, and that is what was recorded."""
    base = small_design().base
    optim = dataclasses.replace(base.optim, epochs=1)
    recipe = dataclasses.replace(base, name=NAME, arch="resnet18", optim=optim)
    run = dataclasses.replace(base.run, seed=3, threads=1)  # recipes do not know these
    settings = dataclasses.replace(recipe, run=run).to_dict()
    monkeypatch.setitem(RECIPES, NAME, dataclasses.replace(RECIPES[NAME], config=recipe))
    monkeypatch.setattr(reproduce, "recorded_settings", lambda name: settings)
    return recipe


@pytest.mark.slow
def test_a_training_is_reproduced_bit_for_bit(
    result: Result,
    emoji_folder: Path,
    small_recipe: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = MeasuredData(name="emoji64", sha256=open_data("emoji64", emoji_folder).sha256)
    blank = dataclasses.replace(result, data=data)
    recorded = reproduce.reproduce(blank, tmp_path / "first", emoji_folder, data_workers=0)
    assert recorded is not None
    assert recorded.seed == 3
    argv = ["reproduce", NAME, "--data", str(emoji_folder), "-o", str(tmp_path / "second")]
    argv += ["--tolerance", "0", "--data-workers", "0"]
    recorded = dataclasses.replace(recorded, data=data)
    monkeypatch.setattr(reproduce, "find_recorded", lambda name: recorded)
    assert main(argv) == 0
    assert "16 of 16 numbers agree" in capsys.readouterr().out
    # A number that is off is found; the training is not done again.
    metrics = {**recorded.metrics, "flags": {"recall@1": 1.5}}
    wrong = dataclasses.replace(recorded, metrics=metrics)
    monkeypatch.setattr(reproduce, "find_recorded", lambda name: wrong)
    assert main(argv) == 1
    shown = capsys.readouterr().out
    assert shown.count("outside") == 1
    assert "14 of 15 numbers agree" in shown


def test_an_earlier_result_is_said_to_be_one(
    result: Result,
    emoji_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = MeasuredData(name="emoji64", sha256=open_data("emoji64", emoji_folder).sha256)
    result = dataclasses.replace(result, data=data)
    result.save(tmp_path / "result.json")
    monkeypatch.setattr(reproduce, "find_recorded", lambda _: result)
    command = ["reproduce", "any", "--data", str(emoji_folder), "-o", str(tmp_path)]
    assert main([*command, "--device", "cpu"]) == 0
    assert "of an earlier call" in capsys.readouterr().err


def test_other_data_are_refused(result: Result, emoji_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the data of the recorded result"):
        reproduce.reproduce(result, tmp_path, emoji_folder)


@pytest.mark.parametrize("name", TRAINED)
def test_recipes_are_what_the_bundled_weights_were_trained_with(name: str, tmp_path: Path) -> None:
    config = training_config(name, tmp_path, Path("emoji64.tar"), None, 1, None)
    run = recorded_settings(name)["run"]
    assert (config.run.seed, config.run.threads) == (run["seed"], run["threads"])


def test_a_changed_recipe_is_refused(
    small_recipe: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = dataclasses.replace(small_recipe.optim, epochs=7)
    changed = dataclasses.replace(small_recipe, optim=longer)
    monkeypatch.setitem(RECIPES, NAME, dataclasses.replace(RECIPES[NAME], config=changed))
    with pytest.raises(ConfigError, match=r"not what its weights were trained.*optim\.epochs: 1"):
        training_config(NAME, tmp_path, Path("emoji64.tar"), None, 1, None)


def test_tolerances_are_of_two_seeds_if_something_is_trained(result: Result) -> None:
    def tolerance(name: str, given: float | None = None) -> float:
        recorded = dataclasses.replace(result, model=MeasuredModel(name=name, sha256=None))
        [row] = compare(recorded, recorded, given)
        assert row.agrees
        return row.tolerance

    stored = read_json(Path(reproduce.__file__).with_name(TOLERANCES))
    assert tolerance(NAME) == stored["flags"]["recall@1"] > 0.01
    assert tolerance("raw-pixels") == UNTRAINED_TOLERANCE
    assert tolerance(NAME, 0.123) == 0.123


def test_short_names_are_found() -> None:
    assert find_recorded("resnet18_cassle_simclr") == find_recorded(NAME)
    with pytest.raises(UnknownNameError, match=r"'raw-pixel'. Did you mean 'raw-pixels'"):
        find_recorded("raw-pixel")


def test_a_number_that_is_not_measured_is_no_agreement(result: Result) -> None:
    with pytest.raises(ConfigError, match=r"flags recall@1 is recorded"):
        compare(result, dataclasses.replace(result, metrics={}))


def test_list_names_what_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["reproduce", "--list"])
    assert exit_info.value.code == 0
    assert {NAME, "raw-pixels"} <= set(capsys.readouterr().out.split())
