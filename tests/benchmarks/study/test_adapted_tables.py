import dataclasses
from pathlib import Path
from typing import Any

import pytest
from results import make_result

from benchmarks.study.adapted import GRID, GRID_SIZE, NAME, SIZE, AdaptedDesign, Care
from benchmarks.study.adapted_tables import (
    ADAPTED_RECORDS,
    STANDARD_ERROR,
    arms_table,
    careful,
    differences_table,
    gained,
    grid_table,
)
from benchmarks.study.metrics import COURSE
from benchmarks.study.records import Record, check_settings, load_records
from benchmarks.study.summary import course_table
from cassle_zoo.common.errors import DataError
from cassle_zoo.train.recipes import get_recipe

TASKS = ("subcategory", "skin_tone", "vendor")


def recorded(arm: str, group: str, score: float, cka: float, care: Care | None = None) -> Record:
    """A record whose accuracies are all `score`."""
    accuracies = {name: {"ridge_top1": score, "knn_top1": score} for name in TASKS}
    suite: dict[str, dict[str, float]] = {
        name: {"linear_top1": score, "knn_top1": score} for name in TASKS
    } | {name: {"recall@1": score} for name in ("flags", "identity")}
    omega = {f"{name}": {"r2_single": 0.25} for name in ("crop", "color", "mean")}
    omega["color_diff"] = {"r2_pair": 0.25}
    metrics: dict[str, Any] = {
        "validation": accuracies | {"omega mean": {"r2_single": 0.25}},
        "forgetting": {"photographs": {"cka": cka, "top1_agreement": 0.5}},
        "emoji64": suite,
        "equivariance": omega,
    }
    return Record(
        arm=arm,
        group=group,
        against="",
        seed=0,
        settings={"optim": dataclasses.asdict(care)} if care else {},
        results={k: make_result(arm, data_sha256="0", metrics=v) for k, v in metrics.items()},
        seconds={"train": 60.0, "evaluate": 30.0},
        device="cpu",
    )


BEFORE = [
    recorded(f"{NAME}-{GRID_SIZE}px", "adapt-grid", 0.5, 1.0),
    recorded(f"{NAME}-{SIZE}px", "original", 0.5, 1.0),
]


def grid(*found: tuple[float, float]) -> list[Record]:
    rows = zip(GRID, found, strict=False)
    return [recorded(care.name, "adapt-grid", score, cka, care) for care, (score, cka) in rows]


def test_of_what_is_as_good_as_the_best_the_one_that_forgets_least_is_chosen() -> None:
    records = grid((0.60, 0.9), (0.70, 0.6), (0.70 - 0.9 * STANDARD_ERROR, 0.7))
    assert careful(records) is records[2]
    assert gained(records[0]) == pytest.approx(0.60)
    assert careful(grid((0.60, 0.9), (0.70, 0.6), (0.60, 0.7))).arm == GRID[1].name
    # What has forgotten too much does not count, unless all have.
    assert careful(grid((0.60, 0.9), (0.70, 0.49))).arm == GRID[0].name
    assert careful(grid((0.60, 0.4), (0.70, 0.3))).arm == GRID[1].name
    with pytest.raises(DataError, match="no records of the grid"):
        careful(BEFORE)


def test_a_training_that_diverged_is_not_chosen() -> None:
    records = grid((0.60, 0.9), (0.70, 0.6))
    records[1] = dataclasses.replace(records[1], results={}, error="the loss is NaN")
    assert careful(records) is records[0]
    assert len(grid_table([*BEFORE, *records]).splitlines()) == 4


def test_the_table_of_the_grid_begins_with_the_weights_as_they_were() -> None:
    records = [*BEFORE, *grid((0.60, 0.9), (0.70, 0.6))]
    header, _, first, second, third = grid_table(records).splitlines()
    assert header.startswith("| freeze-epochs | backbone-lr-scale | layer-decay | backbone-bn | ")
    assert first.startswith("| the weights as they were |")
    assert "50.0" in first
    assert second.startswith("| 0.5 | 0.1 | 0.9 | frozen | 60.0 | ")
    assert third.startswith("| **0.0** | **1.0** | **1.0** | **train** | 70.0 | ")
    with pytest.raises(DataError, match="the weights as they were, at the size of the grid"):
        grid_table(records[1:])


def test_the_table_of_arms_has_means_over_seeds_at_their_size() -> None:
    first = recorded(f"{NAME}_cassle_simclr", "adapted", 0.6, 0.5)
    second = dataclasses.replace(recorded(first.arm, "adapted", 0.7, 0.5), seed=1)
    lines = arms_table([*BEFORE, first, second]).splitlines()[2:]
    assert [line.split(" | ")[:3] for line in lines] == [
        [f"| {NAME}-{SIZE}px", "1", "50.0"],
        [f"| {first.arm}", "2", "65.0 ± 7.1"],
    ]


def test_the_table_of_differences_compares_with_the_baseline_and_with_augself() -> None:
    baseline = f"{NAME}_simclr"
    arms = {f"{NAME}_cassle_simclr": 0.6, f"{baseline}-augself": 0.55, baseline: 0.5}
    records = [
        dataclasses.replace(
            recorded(arm, "adapted", score, 0.5), against="" if arm == baseline else baseline
        )
        for arm, score in arms.items()
    ]
    lines = differences_table([*BEFORE, *records]).splitlines()[2:]
    cassle, augself, _ = arms
    assert [line.split(" | ")[:2] for line in lines] == [
        [f"| {cassle} - {baseline}", "+10.0"],
        [f"| {augself} - {baseline}", "+5.0"],
        [f"| {cassle} - {augself}", "+5.0"],
    ]


def test_the_published_grid_is_in_the_documentation_and_in_the_recipe() -> None:
    records = load_records(ADAPTED_RECORDS)
    document = (Path(__file__).parents[3] / "docs" / "adapt_tables.md").read_text("utf-8")
    assert grid_table(records) in document
    assert arms_table(records) in document
    assert differences_table(records) in document
    assert course_table(records, COURSE) in document
    chosen = careful(records).settings["optim"]
    optim = get_recipe("resnet18_cassle_simclr.adapt").optim
    for name in ("backbone_lr_scale", "layer_decay", "backbone_bn"):
        assert getattr(optim, name) == chosen[name]
    assert (optim.freeze_epochs > 0) == (chosen["freeze_epochs"] > 0)


def test_the_published_records_are_of_the_design() -> None:
    jobs = {job.name: job for job in AdaptedDesign().jobs()}
    for record in load_records(ADAPTED_RECORDS):
        job = jobs[f"{record.arm}-seed{record.seed}"]
        assert record.group == job.arm.group
        check_settings(record, job)
