import contextlib
import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import runner as runner_module
from benchmarks.study.__main__ import main
from benchmarks.study.design import GRID, MAIN, UNTRAINED, Design, Job
from benchmarks.study.evaluators import EVALUATORS
from benchmarks.study.records import Record, choose, load_records, validation_score
from benchmarks.study.runner import Machine, StudyRunner, make_record
from cassle_zoo.common.errors import ConfigError, DataError, NonFiniteLossError, UnknownNameError
from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.common.faults import locked
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.records import MeasuredData
from cassle_zoo.train.trainer import Trainer

FIRST = "test_resnet_simclr-seed0"


def design_of(runner: StudyRunner) -> Design:
    assert isinstance(runner.design, Design)
    return runner.design


def only(runner: StudyRunner, *patterns: str, **changes: Any) -> StudyRunner:
    return dataclasses.replace(runner, only=patterns, **changes)


@pytest.mark.slow
def test_the_best_of_the_grid_on_validation_data_decides(finished: StudyRunner) -> None:
    assert finished.todo() == []
    records = load_records(finished.output / "records")
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
def test_arms_are_equal_but_for_what_their_names_say(finished: StudyRunner) -> None:
    records = {(r.arm, r.seed): r for r in load_records(finished.output / "records")}
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
def test_a_stopped_runner_continues_and_what_is_done_stays(runner: StudyRunner) -> None:
    both = only(runner, "test_resnet_simclr-seed*")
    assert [job.name for job in both.todo()] == [FIRST, "test_resnet_simclr-seed1"]
    assert only(runner, FIRST).run()
    path = runner.output / "records" / f"{FIRST}.json"
    written = path.stat().st_mtime_ns
    assert not list((runner.output / "runs").rglob("checkpoint*"))
    assert both.run()
    assert path.stat().st_mtime_ns == written
    assert both.todo() == []
    assert "; 0 left" in (runner.output / "log.txt").read_text()
    # Without its record a trained model is measured again, to the same numbers, not trained again.
    first = Record.load(path)
    export = runner.output / "runs" / FIRST / "train" / "final" / "export.json"
    trained = export.stat().st_mtime_ns
    path.unlink()
    assert both.run()
    assert Record.load(path).results["emoji64"].metrics == first.results["emoji64"].metrics
    assert Record.load(path).seconds["train"] == first.seconds["train"]
    assert export.stat().st_mtime_ns == trained
    longer = dataclasses.replace(design_of(runner), epochs=2)
    with pytest.raises(ConfigError, match=r"optim\.epochs: 1 there, 2 now"):
        dataclasses.replace(both, design=longer).run()


def diverge(*_: Any) -> bool:
    raise NonFiniteLossError("the loss became nan")


def test_what_another_process_holds_is_left_to_it(runner: StudyRunner) -> None:
    one = only(runner, FIRST)
    with locked(runner.output / "runs" / FIRST):
        assert one.run()
    assert [job.name for job in one.todo()] == [FIRST]


def test_a_diverged_training_is_recorded(
    runner: StudyRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "train_job", diverge)
    assert only(runner, FIRST).run()
    record = Record.load(runner.output / "records" / f"{FIRST}.json")
    assert record.error == "the loss became nan"
    assert validation_score(record) == 0


def test_what_cannot_be_measured_does_not_hold_up_the_others(
    runner: StudyRunner, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = open_data("emoji64", runner.data).sha256
    data = MeasuredData(name="emoji64", sha256=sha256)
    found = dataclasses.replace(record.results["emoji64"], data=data)

    def measure(job: Job, folder: Path, *_: Any) -> Record:
        if job.name == FIRST:
            raise DataError("all features are equal")
        return make_record(job, folder, runner.machine, results=dict.fromkeys(EVALUATORS, found))

    monkeypatch.setattr(runner_module, "train_job", lambda *_: True)
    monkeypatch.setattr(runner_module, "evaluate_job", measure)
    both = only(runner, "test_resnet_simclr-seed*")
    assert both.run()
    assert [record.error for record in load_records(runner.records)] == [
        "all features are equal",
        "",
    ]
    said = (runner.output / "log.txt").read_text()
    assert f"{FIRST}: cannot be measured: all features are equal" in said


def test_what_a_training_raises_is_no_result(
    runner: StudyRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_a_worker(*_: Any) -> bool:
        raise DataError("a data worker was killed")

    monkeypatch.setattr(runner_module, "train_job", lose_a_worker)
    one = only(runner, FIRST)
    with pytest.raises(DataError, match="worker was killed"):
        one.run()
    assert [job.name for job in one.todo()] == [FIRST]


def test_a_worker_that_waited_for_the_grid_goes_on(
    runner: StudyRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes the grid just after this one has found nothing to claim."""
    runner = only(runner, FIRST, design=dataclasses.replace(design_of(runner), choose=True))
    finished: list[str] = []
    claim = StudyRunner._claim
    grid = [job.name for job in runner.design.grid()]

    @contextlib.contextmanager
    def claim_late(self: StudyRunner, todo: Sequence[Job]) -> Iterator[Job | None]:
        if not todo or todo[0].arm.group != GRID:
            with claim(self, todo) as job:
                yield job
            return
        for job in todo:
            finish(job)
        yield None

    def finish(job: Job) -> bool:
        result = dataclasses.replace(
            make_record(job, runner.output, runner.machine),
            results={},
            error="" if finished else "nan",
        )
        finished.append(job.name)
        result.save(runner.record_path(job))
        return True

    monkeypatch.setattr(StudyRunner, "_claim", claim_late)
    monkeypatch.setattr(StudyRunner, "_do", lambda self, job, data: finish(job))
    monkeypatch.setattr(StudyRunner, "_is_done", lambda self, job: job.name in finished)
    monkeypatch.setattr(
        runner_module, "choose", lambda records: design_of(runner).recipe_hyper_parameters()
    )
    monkeypatch.setattr(runner_module, "_POLL", 0.0)
    assert runner.run()
    assert finished == [*grid, FIRST]


@pytest.mark.slow
def test_a_signal_in_the_last_step_stops_the_runner(
    runner: StudyRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.train_step

    def last(self: Trainer, batch: Any, total: int) -> Any:
        values = step(self, batch, total)
        if self.step == total:
            signal.raise_signal(signal.SIGTERM)
        return values

    both = only(runner, "test_resnet_simclr-seed*")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", last)
        assert not both.run()
    assert [job.name for job in both.todo()] == [FIRST, "test_resnet_simclr-seed1"]
    assert (runner.output / "runs" / FIRST / "train" / "final" / "export.json").exists()
    assert not (runner.output / "runs" / "test_resnet_simclr-seed1").exists()


def test_a_folder_that_is_none_is_not_taken_for_anothers(runner: StudyRunner) -> None:
    runner.output.mkdir()
    (runner.output / "runs").write_text("")
    with pytest.raises(ConfigError, match="is a file or a broken link"):
        only(runner, FIRST).run()


def test_a_record_of_other_settings_is_refused(
    runner: StudyRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "train_job", diverge)
    one = only(runner, FIRST)
    assert one.run()
    assert one.todo() == []
    shutil.rmtree(runner.output / "runs")
    assert one.todo() == []
    longer = dataclasses.replace(design_of(runner), epochs=2)
    with pytest.raises(ConfigError, match=rf"{FIRST}.*optim\.epochs: 1 there, 2 now"):
        dataclasses.replace(one, design=longer).run()
    # A setting that came later does not make an old record another one.
    path = runner.output / "records" / f"{FIRST}.json"
    record = Record.load(path)
    optim = dict(record.settings["optim"])
    del optim["warmup_epochs"]
    dataclasses.replace(record, settings={**record.settings, "optim": optim}).save(path)
    assert one.todo() == []


def test_threads_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"threads .*at least 1"):
        Machine(threads=0)


def test_unknown_names_are_refused(runner: StudyRunner) -> None:
    with pytest.raises(UnknownNameError, match=r"group 'mian'. Did you mean 'main'.*untrained"):
        only(runner, "methods", "mian").run()


def test_other_data_are_refused(runner: StudyRunner, record: Record, tmp_path: Path) -> None:
    record.save(runner.records / "other.json")
    with pytest.raises(ConfigError, match=r"a_simclr, seed 0.*other data.*sha256 is 0\b"):
        runner.run()
    argv = ["page", "--data", str(runner.data), "--records", str(runner.records)]
    with pytest.raises(ConfigError, match="is of other data"):
        main([*argv, "-o", str(tmp_path)])
    argv[4] = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        main(argv)


def test_the_folder_must_be_one(runner: StudyRunner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file' is a file"):
        dataclasses.replace(runner, output=tmp_path / "file").run()


@pytest.mark.slow
def test_a_record_that_lacks_an_evaluation_is_completed(
    runner: StudyRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = only(runner, "raw-pixels")
    with monkeypatch.context() as patch:
        patch.delitem(EVALUATORS, "knn-whitened")
        assert pixels.run()
        assert pixels.todo() == []
    [before] = load_records(runner.records)
    assert [job.name for job in pixels.todo()] == ["raw-pixels-seed0"]
    assert pixels.run()
    [after] = load_records(runner.records)
    assert after.results.keys() - before.results.keys() == {"knn-whitened"}
    assert all(after.results[task] == result for task, result in before.results.items())
    assert (after.neighbours, after.device) == (before.neighbours, "cpu, 1 thread")
    assert after.settings == {"name": "raw-pixels"}


def test_a_record_that_lacks_an_evaluation_needs_the_model_that_it_is_of(
    runner: StudyRunner, record: Record
) -> None:
    one = only(runner, FIRST)
    [job] = one.todo()
    record = dataclasses.replace(
        make_record(job, runner.output, runner.machine),
        results={name: record.results["emoji64"] for name in EVALUATORS if name != "spectrum"},
    )
    record.save(runner.record_path(job))
    with pytest.raises(ConfigError, match=rf"{FIRST} lacks spectrum.*remove the record"):
        one.todo()


@pytest.mark.slow
def test_the_course_of_main_arms_is_measured_and_completed(finished: StudyRunner) -> None:
    records = {record.arm: record for record in load_records(finished.records) if not record.seed}
    courses = {arm: list(record.course) for arm, record in records.items()}
    main_arms = {arm for arm, record in records.items() if record.group == MAIN}
    assert len(main_arms) == 3
    assert courses == {arm: ["1"] if arm in main_arms else [] for arm in courses}
    before = records["test_resnet_cassle_simclr"]
    assert 0 < before.course["1"]["validation"].metrics["omega mean"]["r2_pair"] <= 1
    path = finished.records / f"{before.arm}-seed0.json"
    dataclasses.replace(before, course={}).save(path)
    assert [job.name for job in finished.todo()] == [path.stem]
    assert finished.run()
    after = Record.load(path)
    assert after.course["1"]["validation"].metrics == before.course["1"]["validation"].metrics
    assert after.results == before.results


@pytest.mark.slow
def test_an_evaluation_that_fails_later_costs_no_results(
    runner: StudyRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = only(runner, "raw-pixels")
    with monkeypatch.context() as patch:
        patch.delitem(EVALUATORS, "knn-whitened")
        assert pixels.run()
    [before] = load_records(runner.records)

    def fail(*_: Any) -> Record:
        raise DataError("all features are equal")

    monkeypatch.setattr(runner_module, "evaluate_job", fail)
    with pytest.raises(DataError, match="all features are equal"):
        pixels.run()
    assert load_records(runner.records) == [before]


_PROGRAM = """
import dataclasses, sys
from pathlib import Path
sys.path.insert(0, {shared!r})
from tiny_study import MACHINE, small_design
from benchmarks.study.runner import StudyRunner
design = dataclasses.replace(small_design(), choose=False, epochs=200)
out, data = Path({out!r}), Path({data!r})
study = StudyRunner(output=out, data=data, design=design, machine=MACHINE, only=("main",))
raise SystemExit(0 if study.run() else {stopped})
"""


@pytest.mark.slow
def test_two_processes_share_a_folder_and_a_signal_loses_no_work(
    emoji_folder: Path, tmp_path: Path
) -> None:
    program = _PROGRAM.format(
        shared=str(Path(__file__).parents[2] / "shared"),
        out=str(tmp_path),
        data=str(emoji_folder),
        stopped=ExitStatus.STOPPED.value,
    )
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("runs/*/train/checkpoint.pt"))) < 2:
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == ExitStatus.STOPPED
        assert said.count("stopped; the same command continues") == 1
    assert not list(tmp_path.glob("records/*"))


def test_the_command_lists_what_is_left(
    emoji_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", "--data", str(emoji_folder), "-o", str(tmp_path), "--no-choose", "--seeds", "1"]
    assert main([*argv, "--only", "main", "raw-pixels", "--list"]) == 0
    assert capsys.readouterr().out.split() == [
        "resnet18_simclr-seed0",
        "resnet18_cassle_simclr-seed0",
        "resnet18_simclr-augself-seed0",
        "raw-pixels-seed0",
    ]
