import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t as student

from benchmarks.study import main, reproduce
from benchmarks.study.design import Design
from benchmarks.study.job import Machine
from benchmarks.study.records import RECORDS, Record, load_records
from benchmarks.study.reproduce import LEAST, UNTRAINED_TOLERANCE, T, compare, find_recorded
from cassle_zoo.common.errors import ConfigError, UnknownNameError
from cassle_zoo.records import Result
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.folder import bundled_folder, read_config
from cassle_zoo.train.config import TrainConfig

NAME = "resnet18_cassle_simclr.emoji64"
TRAINED = [name for name in reproduce.recorded_results() if name in MODEL_SPECS]


@pytest.fixture
def small_recipe(design: Design, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """The recipe of NAME is a small network's, and that is what was recorded."""
    optim = dataclasses.replace(design.base.optim, epochs=1)
    run = dataclasses.replace(design.base.run, seed=3, threads=1)
    recipe = dataclasses.replace(design.base, optim=optim, run=run)
    training: dict[str, Any] = {"cassle_zoo": {"training": {"config": recipe.to_dict()}}}
    monkeypatch.setattr(reproduce, "get_recipe", lambda name: design_recipe(recipe))
    monkeypatch.setattr(reproduce, "read_config", lambda folder: training)
    return recipe


def design_recipe(recipe: TrainConfig) -> TrainConfig:
    """Recipes do not know the seed of a run."""
    return dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, seed=0))


@pytest.fixture
def recorded(record: Record, emoji: Path, small_recipe: TrainConfig, tmp_path: Path) -> Result:
    """What another training of the same recipe gave."""
    model = {"name": NAME, "sha256": None}
    from cassle_zoo.eval.datasets import open_data

    data = {"name": "emoji64", "sha256": open_data("emoji64", emoji).sha256}
    blank = dataclasses.replace(record.results["emoji64"], model=model, data=data)
    found = reproduce.reproduce(blank, tmp_path / "first", emoji, Machine(data_workers=0))
    assert found is not None
    assert found.seed == 3
    return dataclasses.replace(found, data=data)


@pytest.mark.slow
def test_a_training_is_reproduced_bit_for_bit(
    recorded: Result,
    emoji: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = [NAME, "--data", str(emoji), "-o", str(tmp_path / "second"), "--tolerance", "0"]
    monkeypatch.setattr(main, "find_recorded", lambda name: recorded)
    assert main.run_from_cli([*argv, "--data-workers", "0"]) == 0
    assert "16 of 16 numbers agree" in capsys.readouterr().out
    # A number that is off is found; the training is not done again.
    metrics = {**recorded.metrics, "flags": {"recall@1": 1.5}}
    wrong = dataclasses.replace(recorded, metrics=metrics)
    monkeypatch.setattr(main, "find_recorded", lambda name: wrong)
    assert main.run_from_cli([*argv, "--data-workers", "0"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("outside") == 1
    assert "14 of 15 numbers agree" in shown


def test_other_data_are_refused(record: Record, emoji: Path, tmp_path: Path) -> None:
    result = dataclasses.replace(record.results["emoji64"], model={"name": NAME, "sha256": None})
    with pytest.raises(ConfigError, match="not the data of the recorded result"):
        reproduce.reproduce(result, tmp_path, emoji, Machine())


@pytest.mark.parametrize("name", TRAINED)
def test_recipes_are_what_the_bundled_weights_were_trained_with(name: str, tmp_path: Path) -> None:
    job, machine = reproduce._recorded_job(name, tmp_path, Path("emoji64.tar"), Machine())
    settings = read_config(bundled_folder(MODEL_SPECS[name]))["cassle_zoo"]["training"]["config"]
    assert (job.seed, machine.threads) == (settings["run"]["seed"], settings["run"]["threads"])


def test_a_changed_recipe_is_refused(
    small_recipe: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = dataclasses.replace(small_recipe.optim, epochs=7)
    changed = dataclasses.replace(small_recipe, optim=longer)
    monkeypatch.setattr(reproduce, "get_recipe", lambda name: changed)
    with pytest.raises(ConfigError, match=r"not what its weights were trained.*optim\.epochs: 1"):
        reproduce._recorded_job(NAME, tmp_path, Path("emoji64.tar"), Machine())


@pytest.mark.parametrize(
    ("name", "arms", "expected"),
    [
        (NAME, [], LEAST),
        (NAME, [(0.2,)], LEAST),
        (NAME, [(0.3, 0.3, 0.3)], LEAST),
        (NAME, [(0.2, 0.3, 0.4)], T * 2**0.5 * 0.1),
        # Pooled: variances 0.01 and 0.02 of two and one degrees of freedom.
        (NAME, [(0.2, 0.3, 0.4), (0.5, 0.7), (0.9,)], T * 2**0.5 * (0.04 / 3) ** 0.5),
        ("raw-pixels", [(0.2, 0.3, 0.4)], UNTRAINED_TOLERANCE),
    ],
)
def test_tolerance_is_what_two_seeds_may_differ_by(
    record: Record, name: str, arms: list[tuple[float, ...]], expected: float
) -> None:
    first = record.results["emoji64"]
    recorded = dataclasses.replace(first, model={"name": name, "sha256": None})
    records = [
        dataclasses.replace(
            record,
            arm=f"arm {number}",
            seed=seed,
            results={"emoji64": dataclasses.replace(first, metrics={"flags": {"recall@1": share}})},
        )
        for number, shares in enumerate(arms)
        for seed, share in enumerate(shares)
    ]
    # What is no main arm, or diverged, says nothing.
    records.append(dataclasses.replace(record, group="grid", results={}))
    records.append(dataclasses.replace(record, error="the loss became nan", results={}))
    [row] = compare(recorded, recorded, records)
    assert row.tolerance == pytest.approx(expected)
    assert row.agrees
    [row] = compare(recorded, recorded, records, tolerance=0.123)
    assert row.tolerance == 0.123


def test_the_constant_is_students() -> None:
    samples = Counter(r.arm for r in load_records(RECORDS) if r.group == "main" and not r.error)
    freedom = sum(count - 1 for count in samples.values())
    assert pytest.approx(student.isf(0.05 / 17 / 2, freedom), abs=0.05) == T


def test_short_names_are_found() -> None:
    assert find_recorded("resnet18_cassle_simclr") == find_recorded(NAME)
    with pytest.raises(UnknownNameError, match=r"'studdy'. Did you mean 'study'"):
        find_recorded("studdy")


def test_a_number_that_is_not_measured_is_no_agreement(record: Record) -> None:
    result = record.results["emoji64"]
    with pytest.raises(ConfigError, match=r"flags recall@1 is recorded"):
        compare(result, dataclasses.replace(result, metrics={}), [])


def test_list_names_what_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_from_cli(["--list"]) == 0
    assert {NAME, "raw-pixels", "study"} <= set(capsys.readouterr().out.split())
