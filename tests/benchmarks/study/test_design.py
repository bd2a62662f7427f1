import dataclasses
import json

import pytest

from benchmarks.study.design import (
    CONDITIONING,
    DEPTH,
    MAIN,
    METHODS,
    OMEGA,
    REFERENCE,
    UNTRAINED,
    Design,
    HyperParameters,
    Job,
)
from cassle_zoo.common.errors import ConfigError

CHOICE = HyperParameters(base_lr=0.111, weight_decay=3e-4)
DESIGN = Design(epochs=7, grid_epochs=2, ablation_epochs=4, seeds=3, method_seeds=2)
JOBS = DESIGN.jobs(CHOICE)
BY_NAME = {job.name: job for job in JOBS}


def settings(job: Job) -> dict[str, object]:
    values = job.arm.config.to_dict()
    values.pop("name")
    return values


def test_the_most_important_come_first() -> None:
    assert [job.name for job in JOBS[:4]] == [
        "resnet18_simclr-seed0",
        "resnet18_cassle_simclr-seed0",
        "resnet18_simclr-augself-seed0",
        "resnet18_simclr-seed1",
    ]
    assert len({job.name for job in JOBS}) == len(JOBS) == 9 + 4 + 2 * 11 + 2 + 14
    groups = {MAIN, UNTRAINED, METHODS, REFERENCE, CONDITIONING, OMEGA, DEPTH}
    assert {job.arm.group for job in JOBS} == groups


def test_budgets_are_equal() -> None:
    budgets = {
        (j.arm.group in ("main", "methods"), j.arm.config.optim.epochs)
        for j in JOBS
        if not j.arm.source
    }
    assert budgets == {(True, 7), (False, 4)}
    assert {job.arm.config.optim.batch_size for job in JOBS} == {128}
    assert {job.arm.config.optim.epochs for job in DESIGN.grid()} == {2}
    # A warm-up that is longer than the budget is cut.
    assert all(job.arm.config.optim.warmup_epochs <= 1 for job in Design(epochs=1).jobs(CHOICE))


PAIRED = [job for job in JOBS if job.arm.group == "methods" and job.arm.against]


@pytest.mark.parametrize("job", PAIRED, ids=lambda job: job.name)
def test_pairs_differ_in_the_conditioning_only(job: Job) -> None:
    other = BY_NAME[f"{job.arm.against}-seed{job.seed}"]
    mine, theirs = settings(job), settings(other)
    assert {key for key in mine if mine[key] != theirs[key]} == {"conditioning"}
    assert other.arm.config.conditioning.mode == "none"


def test_ablations_change_one_thing() -> None:
    base = BY_NAME["resnet18_cassle_simclr-4epochs-seed0"]
    for job in JOBS:
        if job.arm.group in ("conditioning", "omega", "depth"):
            assert job.arm.against == base.arm.name
            mine, theirs = settings(job), settings(base)
            assert {key for key in mine if mine[key] != theirs[key]} == {"conditioning"}
            a = dataclasses.asdict(job.arm.config.conditioning)
            b = dataclasses.asdict(base.arm.config.conditioning)
            changed = {"conditioning": "mode", "omega": "descriptors", "depth": "depth"}
            assert {key for key in a if a[key] != b[key]} == {changed[job.arm.group]}


def test_ablations_are_compared_with_the_main_arms_if_these_are_as_long() -> None:
    jobs = Design(epochs=4, ablation_epochs=4).jobs(CHOICE)
    assert "reference" not in {job.arm.group for job in jobs}
    against = {j.arm.against for j in jobs if j.arm.group in ("conditioning", "omega", "depth")}
    assert against == {"resnet18_cassle_simclr"}


def test_untrained_features_are_measured_too() -> None:
    jobs = {job.name: job for job in JOBS if job.arm.group == "untrained"}
    names = {f"random-init_resnet18-seed{seed}" for seed in range(3)} | {"raw-pixels-seed0"}
    assert jobs.keys() == names
    assert jobs["random-init_resnet18-seed2"].arm.source == "random-init:resnet18"


def test_the_references_are_shorter_main_arms() -> None:
    for name in ("resnet18_simclr", "resnet18_cassle_simclr"):
        mine, theirs = (settings(BY_NAME[f"{arm}-seed0"]) for arm in (f"{name}-4epochs", name))
        assert {key for key in mine if mine[key] != theirs[key]} == {"optim"}
        assert mine["optim"] == {**theirs["optim"], "epochs": 4}  # type: ignore[dict-item]
    assert BY_NAME["resnet18_cassle_simclr-4epochs-seed0"].arm.against == "resnet18_simclr-4epochs"


def test_what_was_chosen_holds_unless_a_recipe_differs() -> None:
    def optim(name: str) -> tuple[float, float]:
        found = BY_NAME[f"{name}-seed0"].arm.config.optim
        return found.base_lr, found.weight_decay

    assert optim("resnet18_simclr") == optim("resnet18_simclr-augself") == (0.111, 3e-4)
    assert optim("resnet18_mocov2") == (0.111, 1e-4)
    assert optim("vit_small_mocov3") == (1e-3, 0.1)


def test_the_grid_is_of_the_baseline() -> None:
    grid = Design().grid()
    assert len({(j.arm.config.optim.base_lr, j.arm.config.optim.weight_decay) for j in grid}) == 6
    assert {json.dumps(settings(j)["conditioning"]) for j in grid} == {
        json.dumps(settings(BY_NAME["resnet18_simclr-seed0"])["conditioning"])
    }
    assert Design(choose=False).grid() == ()


def test_budgets_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"seeds .*at least 1.*got 0"):
        Design(seeds=0)
