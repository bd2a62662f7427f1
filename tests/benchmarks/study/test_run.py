import contextlib
import dataclasses
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import job as job_module
from benchmarks.study import main, run
from benchmarks.study.design import GRID, UNTRAINED, Job
from benchmarks.study.job import EVALUATORS, make_record
from benchmarks.study.main import StudyArguments, make_walk, run_from_cli
from benchmarks.study.processes import run_study
from benchmarks.study.records import Record, choose, load_records, validation_score
from benchmarks.study.run import STOPPED, Walk
from cassle_zoo.common.errors import ConfigError, DataError, NonFiniteLossError, UnknownNameError
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.train.run.faults import locked
from cassle_zoo.train.trainer import Trainer

FIRST = "test_resnet_simclr-seed0"


def only(walk: Walk, *patterns: str, **changes: Any) -> Walk:
    return dataclasses.replace(walk, only=patterns, **changes)


@pytest.mark.slow
def test_the_best_of_the_grid_on_validation_data_decides(finished: Walk) -> None:
    assert finished.todo() == []
    records = load_records(finished.out / "records")
    grid = [record for record in records if record.group == GRID]
    rest = [record for record in records if record.group != GRID]
    assert (len(grid), len(rest)) == (2, 12)
    scores = {r.arm: validation_score(r) for r in grid}
    assert all(0 < score <= 1 for score in scores.values())
    chosen = choose(grid)
    best = next(r for r in grid if scores[r.arm] == max(scores.values()))
    assert best.settings["optim"]["base_lr"] == chosen.base_lr
    for record in rest:
        if record.group == UNTRAINED:
            continue
        assert record.settings["optim"]["base_lr"] == chosen.base_lr
        assert record.settings["optim"]["weight_decay"] == chosen.weight_decay


@pytest.mark.slow
def test_arms_are_equal_but_for_what_their_names_say(finished: Walk) -> None:
    records = {(r.arm, r.seed): r for r in load_records(finished.out / "records")}
    plain = records["test_resnet_simclr", 1]
    for name, part in [
        ("test_resnet_cassle_simclr", "conditioning"),
        ("test_resnet_simclr-augself", "augself"),
    ]:
        other = records[name, 1]
        assert other.against == plain.arm
        differing = {k for k in other.settings if other.settings[k] != plain.settings[k]}
        assert differing == {"name", part}
        assert set(other.results) == set(EVALUATORS) > {"emoji64", "knn-whitened"}
        assert other.seconds["train"] > 0
        assert other.results["emoji64"].seed == 1
        # Queries with their neighbours, the same queries for all.
        for task in ("flags", "identity", "skin_tone"):
            rows, rows_of_plain = other.neighbours[task], plain.neighbours[task]
            assert [row[0] for row in rows] == [row[0] for row in rows_of_plain]
            assert all(row[0] not in row[1:] for row in rows)


@pytest.mark.slow
def test_a_stopped_walk_continues_and_what_is_done_stays(walk: Walk) -> None:
    both = only(walk, "test_resnet_simclr-seed*")
    assert run_study(dataclasses.replace(both, hours=0)) == STOPPED
    assert [job.name for job in both.todo()] == [FIRST, "test_resnet_simclr-seed1"]
    assert run_study(only(walk, FIRST)) == 0
    path = walk.out / "records" / f"{FIRST}.json"
    written = path.stat().st_mtime_ns
    assert not list((walk.out / "runs").rglob("checkpoint*"))
    assert run_study(both) == 0
    assert path.stat().st_mtime_ns == written
    assert both.todo() == []
    assert "0 left, about 0.0 hours" in (walk.out / "log.txt").read_text()
    # Without its record a trained model is measured again, to the same numbers, not trained again.
    first = Record.load(path)
    export = walk.out / "runs" / FIRST / "train" / "final" / "export.json"
    trained = export.stat().st_mtime_ns
    path.unlink()
    assert run_study(both) == 0
    assert Record.load(path).results["emoji64"].metrics == first.results["emoji64"].metrics
    assert Record.load(path).seconds["train"] == first.seconds["train"]
    assert export.stat().st_mtime_ns == trained
    longer = dataclasses.replace(walk.design, epochs=2)
    with pytest.raises(ConfigError, match=r"optim\.epochs: 1 there, 2 now"):
        run_study(dataclasses.replace(both, design=longer))


def test_what_another_process_holds_is_left_to_it(walk: Walk) -> None:
    one = only(walk, FIRST)
    with locked(walk.out / "runs" / FIRST):
        assert run_study(one) == 0
    assert [job.name for job in one.todo()] == [FIRST]


def test_a_diverged_training_is_recorded(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: Any) -> bool:
        raise NonFiniteLossError("the loss became nan")

    monkeypatch.setattr(run, "train_job", diverge)
    assert run_study(only(walk, FIRST)) == 0
    record = Record.load(walk.out / "records" / f"{FIRST}.json")
    assert record.error == "the loss became nan"
    assert validation_score(record) == 0


def test_what_cannot_be_measured_does_not_hold_up_the_others(
    walk: Walk, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = open_data("emoji64", walk.data).sha256
    data = {"name": "emoji64", "sha256": sha256}
    found = dataclasses.replace(record.results["emoji64"], data=data)

    def measure(job: Job, folder: Path, *_: Any) -> Record:
        if job.name == FIRST:
            raise DataError("all features are equal")
        return make_record(job, folder, walk.machine, results=dict.fromkeys(EVALUATORS, found))

    monkeypatch.setattr(run, "train_job", lambda *_: True)
    monkeypatch.setattr(run, "evaluate_job", measure)
    both = only(walk, "test_resnet_simclr-seed*")
    assert run_study(both) == 0
    assert [record.error for record in load_records(walk.records)] == ["all features are equal", ""]
    said = (walk.out / "log.txt").read_text()
    assert f"{FIRST}: cannot be measured: all features are equal" in said


def test_what_a_training_raises_is_no_result(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_a_worker(*_: Any) -> bool:
        raise DataError("a data worker was killed")

    monkeypatch.setattr(run, "train_job", lose_a_worker)
    one = only(walk, FIRST)
    with pytest.raises(DataError, match="worker was killed"):
        run_study(one)
    assert [job.name for job in one.todo()] == [FIRST]


def test_a_worker_that_waited_for_the_grid_goes_on(
    walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes the grid just after this one has found nothing to claim."""
    walk = only(walk, FIRST, design=dataclasses.replace(walk.design, choose=True))
    finished: list[str] = []
    claim = Walk._claim
    grid = [job.name for job in walk.design.grid()]

    @contextlib.contextmanager
    def claim_late(self: Walk, todo: Sequence[Job]) -> Iterator[Job | None]:
        if todo[0].arm.group != GRID:
            with claim(self, todo) as job:
                yield job
            return
        for job in todo:
            finish(job)
        yield None

    def finish(job: Job) -> None:
        result = dataclasses.replace(
            make_record(job, walk.out, walk.machine), results={}, error="" if finished else "nan"
        )
        finished.append(job.name)
        result.save(walk.record_path(job))

    monkeypatch.setattr(Walk, "_claim", claim_late)
    monkeypatch.setattr(Walk, "_run", lambda self, job, data: finish(job) is None)
    monkeypatch.setattr(Walk, "_is_done", lambda self, job: job.name in finished)
    monkeypatch.setattr(run, "choose", lambda records: walk.design.recipe_choice())
    monkeypatch.setattr(run, "_POLL", 0.0)
    assert walk() == 0
    assert finished == [*grid, FIRST]


@pytest.mark.slow
def test_a_signal_in_the_last_step_stops_the_walk(
    walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.train_step

    def last(self: Trainer, batch: Any, total: int) -> Any:
        values = step(self, batch, total)
        if self.step == total:
            signal.raise_signal(signal.SIGTERM)
        return values

    both = only(walk, "test_resnet_simclr-seed*")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", last)
        assert run_study(both) == STOPPED
    assert [job.name for job in both.todo()] == [FIRST, "test_resnet_simclr-seed1"]
    assert (walk.out / "runs" / FIRST / "train" / "final" / "export.json").exists()
    assert not (walk.out / "runs" / "test_resnet_simclr-seed1").exists()


def test_a_folder_that_is_none_is_not_taken_for_anothers(walk: Walk) -> None:
    walk.out.mkdir()
    (walk.out / "runs").write_text("")
    with pytest.raises(ConfigError, match="is a file or a broken link"):
        run_study(only(walk, FIRST))


def test_a_record_of_other_settings_is_refused(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: Any) -> bool:
        raise NonFiniteLossError("the loss became nan")

    monkeypatch.setattr(run, "train_job", diverge)
    one = only(walk, FIRST)
    assert run_study(one) == 0
    assert one.todo() == []
    shutil.rmtree(walk.out / "runs")
    assert one.todo() == []
    longer = dataclasses.replace(walk.design, epochs=2)
    with pytest.raises(ConfigError, match=rf"{FIRST}.*optim\.epochs: 1 there, 2 now"):
        run_study(dataclasses.replace(one, design=longer))
    # A setting that came later does not make an old record another one.
    path = walk.out / "records" / f"{FIRST}.json"
    record = Record.load(path)
    optim = dict(record.settings["optim"])
    del optim["warmup_epochs"]
    dataclasses.replace(record, settings={**record.settings, "optim": optim}).save(path)
    assert one.todo() == []


def test_threads_are_shared_out_unless_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads(**settings: int) -> int | None:
        return make_walk(StudyArguments(data=tmp_path, output=tmp_path, **settings)).machine.threads

    assert threads() is None
    monkeypatch.setattr(main, "_cores", lambda: 7)
    assert [threads(workers=workers) for workers in (2, 3, 8)] == [3, 2, 1]
    assert threads(workers=2, threads=3) == 3
    for workers in (1, 2):
        with pytest.raises(ConfigError, match="threads must be a whole number of at least 1"):
            threads(workers=workers, threads=0)


def test_unknown_names_are_refused(walk: Walk) -> None:
    with pytest.raises(UnknownNameError, match=r"group 'mian'. Did you mean 'main'.*untrained"):
        run_study(only(walk, "methods", "mian"))


def test_other_data_are_refused(walk: Walk, record: Record, tmp_path: Path) -> None:
    record.save(walk.records / "other.json")
    with pytest.raises(ConfigError, match="record of a_simclr, seed 0, is of other data: sha256 0"):
        run_study(walk)
    argv = ["page", "--data", str(walk.data), "--records", str(walk.records), "-o", str(tmp_path)]
    with pytest.raises(ConfigError, match="is of other data"):
        run_from_cli(argv)
    argv[4] = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        run_from_cli(argv)


def test_the_folder_must_be_one(walk: Walk, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file' is a file, or lies below one"):
        run_study(dataclasses.replace(walk, out=tmp_path / "file"))


@pytest.mark.slow
def test_a_record_that_lacks_an_evaluation_is_completed(
    walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = only(walk, "raw-pixels")
    with monkeypatch.context() as patch:
        patch.delitem(job_module.EVALUATORS, "knn-whitened")
        assert run_study(pixels) == 0
        assert pixels.todo() == []
    [before] = load_records(walk.records)
    assert [job.name for job in pixels.todo()] == ["raw-pixels-seed0"]
    assert run_study(pixels) == 0
    [after] = load_records(walk.records)
    assert after.results.keys() - before.results.keys() == {"knn-whitened"}
    assert all(after.results[task] == result for task, result in before.results.items())
    assert (after.neighbours, after.device) == (before.neighbours, "cpu, 1 thread")
    assert after.settings == {"name": "raw-pixels"}


def test_a_record_that_lacks_an_evaluation_needs_the_model_that_it_is_of(
    walk: Walk, record: Record
) -> None:
    one = only(walk, FIRST)
    [job] = one.todo()
    record = dataclasses.replace(
        make_record(job, walk.out, walk.machine),
        results={name: record.results["emoji64"] for name in EVALUATORS if name != "spectrum"},
    )
    record.save(walk.record_path(job))
    with pytest.raises(ConfigError, match=rf"{FIRST} lacks spectrum.*remove the record"):
        one.todo()


@pytest.mark.slow
def test_an_evaluation_that_fails_later_costs_no_results(
    walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = only(walk, "raw-pixels")
    with monkeypatch.context() as patch:
        patch.delitem(job_module.EVALUATORS, "knn-whitened")
        assert run_study(pixels) == 0
    [before] = load_records(walk.records)

    def fail(*_: Any) -> Record:
        raise DataError("all features are equal")

    monkeypatch.setattr(run, "evaluate_job", fail)
    with pytest.raises(DataError, match="all features are equal"):
        run_study(pixels)
    assert load_records(walk.records) == [before]
