import dataclasses

import pytest

from benchmarks.study.design import Design, Job
from benchmarks.study.outlook import hours_left
from benchmarks.study.records import Record, settings_of


@pytest.fixture
def jobs() -> dict[str, Job]:
    """The jobs of the study as it is published, by name."""
    design = Design()
    return {job.name: job for job in design.jobs(design.recipe_choice())}


def done(job: Job, train: float) -> Record:
    return Record(
        arm=job.arm.name,
        group=job.arm.group,
        against=job.arm.against,
        seed=job.seed,
        settings=settings_of(job),
        seconds={"train": train, "evaluate": 360.0},
        device="cpu",
    )


def test_an_epoch_takes_as_long_as_before_with_the_same_network_and_conditioning(
    jobs: dict[str, Job],
) -> None:
    records = [
        done(jobs["resnet18_simclr-seed0"], 25 * 36.0),
        done(jobs["resnet18_cassle_simclr-seed0"], 25 * 72.0),
        done(jobs["vit_small_cassle_mocov3-seed0"], 25 * 360.0),
        done(jobs["raw-pixels-seed0"], 0.0),
    ]

    def hours(*names: str) -> float:
        return hours_left([jobs[name] for name in names], records)

    assert hours() == 0
    assert hours("raw-pixels-seed0") == pytest.approx(0.1)
    assert hours("resnet18_simclr-seed1") == pytest.approx(0.1 + 25 * 0.01)
    assert hours("resnet18_cassle_simclr-depth-2-seed0") == pytest.approx(0.1 + 10 * 0.02)
    again = dataclasses.replace(jobs["vit_small_cassle_mocov3-seed0"], seed=1)
    assert hours_left([again], records) == pytest.approx(0.1 + 25 * 0.1)
    mean = (0.01 + 0.02 + 0.1) / 3  # nothing like it is done
    hypernet = "resnet18_cassle_simclr-conditioning-hypernet-seed0"
    assert hours(hypernet) == pytest.approx(0.1 + 10 * mean)
    assert hours("raw-pixels-seed0", "resnet18_simclr-seed1") == pytest.approx(0.45)
    # Its record lacks an evaluation.
    assert hours("vit_small_cassle_mocov3-seed0") == pytest.approx(0.1)
    # One that diverged at once is no measure of the time of an epoch.
    failed = dataclasses.replace(done(jobs["resnet18_simclr-seed2"], 1.0), error="nan")
    records.append(failed)
    assert hours("resnet18_simclr-seed1") == pytest.approx(0.1 + 25 * 0.01)


def test_nothing_trained_yet(jobs: dict[str, Job]) -> None:
    records = [done(jobs["raw-pixels-seed0"], 0.0)]
    assert hours_left([jobs["resnet18_simclr-seed0"]], records) == pytest.approx(0.1)
