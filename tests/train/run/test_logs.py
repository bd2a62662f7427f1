import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from changes import change
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cassle_zoo.common.errors import MissingDependencyError
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.run import logs
from cassle_zoo.train.run.logs import CSV_FILE, LOGGERS, Reporter


def test_numbers_are_written_at_once(tmp_path: Path) -> None:
    loggers = [LOGGERS[name](tmp_path, 0) for name in ("csv", "tensorboard")]
    for logger in loggers:
        logger.log(1, {"loss": 2.0})
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["1,loss,2.0"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0)]
    for logger in loggers:
        logger.close()


def test_tensorboard_needs_its_extra(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"cassle-zoo\[tensorboard\]"):
        Reporter(change(config, "run", loggers=("csv", "tensorboard")), tmp_path, 0, 1)


@pytest.mark.parametrize(
    ("total", "every", "entries"), [(10, 10, 10), (7, 10, 7), (39, 10, 13), (1000, 10, 100)]
)
def test_a_run_has_ten_entries_whatever_its_length(
    config: TrainConfig, tmp_path: Path, total: int, every: int, entries: int
) -> None:
    report = Reporter(change(config, "run", log_every=every), tmp_path, 0, total)
    for step in range(1, total + 1):
        report.step(step, {"loss": 1.0})
    report.close()
    assert (tmp_path / CSV_FILE).read_text().count(",loss,") == entries


def test_the_speed_is_that_of_steps_since_the_last_entry_or_epoch(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter((0.0, 2.0, 10.0, 14.0))  # at the start, at step 2, after the epoch, at step 4
    monkeypatch.setattr(logs, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    report = Reporter(change(config, "run", log_every=2), tmp_path, 0, 40)
    for step in range(1, 5):
        report.step(step, {"loss": 1.0})
        if step == 2:
            report.epoch(step, 1, {})
    report.close()
    with (tmp_path / CSV_FILE).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "images_per_second"]
    assert [(row["step"], float(row["value"])) for row in rows] == [("2", 4.0), ("4", 2.0)]
