import dataclasses

import pytest

from cassle_zoo.study.design import GRID
from cassle_zoo.study.records import choose, load_records, validation_score
from cassle_zoo.study.run import STOPPED, Walk, run_study


def without_grid(walk: Walk, *only: str) -> Walk:
    design = dataclasses.replace(walk.design, choose=False)
    return dataclasses.replace(walk, design=design, only=only)


@pytest.mark.slow
def test_grid_decides_about_the_arms(walk: Walk) -> None:
    walk = dataclasses.replace(walk, only=("test_resnet_*simclr-seed0",))
    assert [job.arm.group for job in walk.todo()] == [GRID] * 6
    assert run_study(walk) == 0
    assert not walk.todo()
    records = load_records(walk.out / "records")
    grid = [record for record in records if record.group == GRID]
    choice = choose(grid)
    best = max(validation_score(record) for record in grid)
    assert 0 < best <= 1
    for record in set(map(id, records)) and records:
        optim = record.settings["optim"]
        if record.group != GRID:
            assert (optim["base_lr"], optim["weight_decay"]) == (
                choice.base_lr,
                choice.weight_decay,
            )
            assert set(record.results) == {"emoji64", "sensitivity", "equivariance", "spectrum"}
            assert {len(row) for row in record.neighbours["flags"]} == {6}
    cassle, plain = (r for r in records if r.group != GRID)
    assert (cassle.arm, cassle.against) == ("test_resnet_cassle_simclr", plain.arm)
    # Equal but for the conditioning.
    different = {k for k in cassle.settings if cassle.settings[k] != plain.settings[k]}
    assert different == {"name", "conditioning"}


def test_a_stopped_walk_continues(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = without_grid(walk, "test_resnet_simclr-seed*")
    assert run_study(dataclasses.replace(walk, hours=0)) == STOPPED
    assert [job.name for job in walk.todo()] == [
        "test_resnet_simclr-seed0",
        "test_resnet_simclr-seed1",
    ]
