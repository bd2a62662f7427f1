"""W&B, MLflow and trackio, offline and with the real packages where they are installed."""

import builtins
import json
import sqlite3
import struct
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from changes import change

from cassle_zoo.common.errors import ConfigError, MissingDependencyError, NonFiniteLossError
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.run import logs, trackers
from cassle_zoo.train.run.trackers import IDS_FILE, TRACKERS, InBackground, open_tracker


def interrupted_and_continued(config: TrainConfig, out: Path, fault_at: Any) -> dict[str, str]:
    ids = []
    with fault_at(6), pytest.raises(KeyboardInterrupt):
        loop.train(config, out)
    ids.append(json.loads((out / IDS_FILE).read_text()))
    assert loop.train(config, out).finished
    ids.append(json.loads((out / IDS_FILE).read_text()))
    assert ids[0] == ids[1]
    return dict(ids[1])


def logged(config: TrainConfig, name: str) -> TrainConfig:
    return change(config, "run", loggers=("csv", name), monitor_every=0)


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of W&B's file, in LevelDB's log format with a header of 7 bytes."""
    position, record = 7, b""
    while position + 7 <= len(content):
        if (left := -position % 32768) < 7 and left:  # no room for a header in this block
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.slow  # its service takes seconds to start
def test_wandb(
    config: TrainConfig, tmp_path: Path, fault_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2 as protocol

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = interrupted_and_continued(logged(config, "wandb"), tmp_path / "run", fault_at)
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert {file.name for file in files} == {f"run-{ids['wandb']}.wandb"}
    steps, settings = set[int](), set[tuple[str, str]]()
    for data in (data for file in files for data in wandb_records(file.read_bytes())):
        record: Any = getattr(protocol, "Record").FromString(data)  # noqa: B009
        settings.update((item.key, item.value_json[:300]) for item in record.run.config.update)
        if any((*item.nested_key, item.key)[0] == "loss" for item in record.history.item):
            steps.add(record.history.step.num)
    assert steps == set(range(1, 11))
    assert ("arch", '"test_resnet"') in settings
    assert config.data.root not in str(settings)


def test_mlflow(
    config: TrainConfig, tmp_path: Path, fault_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    ids = interrupted_and_continued(logged(config, "mlflow"), tmp_path / "run", fault_at)
    client = MlflowClient()
    run = client.get_run(ids["mlflow"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == config.name
    assert run.data.params["optim.base_lr"] == "1.0"
    assert run.data.params["data.root"] == Path(config.data.root).name
    losses = {m.step: m.value for m in client.get_metric_history(ids["mlflow"], "loss")}
    assert set(losses) == set(range(1, 11))
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert f"10,loss,{losses[10]!r}" in rows
    (tmp_path / "run" / IDS_FILE).write_text(json.dumps({"mlflow": "0" * 32}))
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        loop.train(logged(config, "mlflow"), tmp_path / "run")


def test_trackio(
    config: TrainConfig, tmp_path: Path, fault_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # it is read at import
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    folder = Path(utils.TRACKIO_DIR)
    if not str(folder).startswith(str(tmp_path)):
        monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
        folder = tmp_path / "trackio"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ids = interrupted_and_continued(logged(config, "trackio"), tmp_path / "run", fault_at)
    (database,) = folder.glob("cassle-zoo*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    assert {name for name, _, _ in rows} == {ids["trackio"]}
    assert {step for _, step, metrics in rows if b"loss" in bytes(metrics)} == set(range(1, 11))


def test_no_tracker_gets_the_users_folders(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = replace(config, init="somebodys/folder/weights.pth")
    open_tracker("wandb", config, tmp_path)
    sent = wandb.init.call_args.kwargs["config"]
    assert sent["init"] == "weights.pth"
    assert sent["data"]["root"] == Path(config.data.root).name


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = builtins.__import__

    def without(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.partition(".")[0] == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'cassle-zoo\[{name}\]'"):
        loop.train(logged(config, name), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


class Faulty:
    """A tracker that fails at its second numbers."""

    id = "faulty"

    def __init__(self, *_: Any) -> None:
        self.logged: list[int] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.logged:
            raise ConnectionError("no route to http://me:secret@host\nat ...")
        self.logged.append(step)

    def close(self, finished: bool) -> None:
        raise AssertionError


def test_a_tracker_that_fails_does_not_end_the_run(
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", Faulty)
    assert loop.train(logged(config, "wandb"), tmp_path).finished
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 1
    assert "wandb takes no more numbers (ConnectionError: no route to http://***@host)" in said[0]


def test_a_tracker_that_hangs_does_not_hold_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Faulty):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            release.wait()

        def close(self, finished: bool) -> None:
            pass

    release, told = threading.Event(), list[str]()
    monkeypatch.setattr(trackers, "LAST_SECONDS", 0.05)
    logger = InBackground("wandb", Hanging(), 10, told.append)
    logger.log(1, {"loss": 1.0})
    logger.close()
    release.set()
    assert len(told) == 1
    assert "0.05 seconds" in told[0]


@pytest.mark.parametrize(("last", "finished"), [(5, True), (6, False)])
def test_an_interrupted_run_is_not_marked_finished(last: int, finished: bool) -> None:
    class Recording(Faulty):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            self.logged.append(step)

        def close(self, finished: bool) -> None:
            self.logged.append(finished)

    tracker = Recording()
    logger = InBackground("wandb", tracker, last, print)
    logger.log(5, {"loss": 1.0})
    logger.close()
    assert tracker.logged == [5, finished]


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """How a run ended, as W&B is told."""
    told: list[bool] = []

    class Closing(Faulty):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            pass

        def close(self, finished: bool) -> None:
            told.append(finished)

    monkeypatch.setitem(TRACKERS, "wandb", Closing)
    return told


def test_a_finished_run_stays_finished(
    config: TrainConfig, tmp_path: Path, closed: list[bool]
) -> None:
    for _ in range(2):
        assert loop.train(logged(config, "wandb"), tmp_path).finished
    assert closed == [True, True]


def test_a_run_that_fails_is_marked_interrupted(
    config: TrainConfig, tmp_path: Path, closed: list[bool], fault_at: Any
) -> None:
    with fault_at(6, NonFiniteLossError("the loss became nan")), pytest.raises(NonFiniteLossError):
        loop.train(logged(config, "wandb"), tmp_path)
    assert closed == [False]


def test_one_that_cannot_start(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("No API key for http://me:secret@host.\nUse `wandb login`")

    monkeypatch.setitem(TRACKERS, "wandb", refuse)
    said = r"wandb cannot start \(RuntimeError: No API key for http://\*\*\*@host"
    with pytest.raises(ConfigError, match=said) as caught:
        loop.train(logged(config, "wandb"), tmp_path)
    assert "me:secret" not in "".join(traceback.format_exception(caught.value))
    assert not (tmp_path / "checkpoint.pt").exists()
    (tmp_path / IDS_FILE).write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        open_tracker("wandb", config, tmp_path)


def test_names_are_those_of_the_settings() -> None:
    from cassle_zoo.train.config import LOGGERS

    assert set(LOGGERS) == {*logs.LOGGERS, *TRACKERS}
