"""Experiment trackers that a run can log to: W&B, MLflow and trackio, each behind its extra.

Where they store runs is up to their own environment variables (`WANDB_MODE`, `MLFLOW_TRACKING_URI`,
`TRACKIO_SPACE_ID`, ...). A continued run continues the logged run, whose name is in the run's
folder.
"""

import contextlib
import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import read_json, write_json
from cassle_zoo.common.hub_client import public_cause, redacted
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.run.fingerprint import flat_settings
from cassle_zoo.zoo.names import public_settings

IDS_FILE = "trackers.json"
PROJECT = "cassle-zoo"
LAST_SECONDS = 60.0
"""How long a run waits at its end for what a tracker has not sent yet."""
_MLFLOW_PARAMS = 100  # at once
_MLFLOW_LENGTH = 500  # of a value


class Tracker(Protocol):
    """Takes a run's numbers; knows whether the run has ended.

    Attributes:
        id: What it calls the run.
    """

    id: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` after `step` steps."""

    def close(self, finished: bool) -> None:
        """Send what is buffered, and mark the run as finished or interrupted."""


class WandbTracker:
    """A W&B run, with its local files in the run's folder."""

    def __init__(self, config: TrainConfig, out: Path, known: str | None) -> None:
        """Begin a run, or continue the one `known`."""
        import wandb

        self.id = known or uuid.uuid4().hex[:8]
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", config.name),
            id=self.id,
            resume="allow",
            dir=out,
            config=public_settings(config.to_dict()),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers; W&B leaves out steps that it has already."""
        self._run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if finished else 1)


class MlflowTracker:
    """An MLflow run."""

    def __init__(self, config: TrainConfig, out: Path, known: str | None) -> None:
        """Begin a run, or continue the one `known`."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        if known is not None:
            self.id = known
            try:
                self._client.update_run(known, status="RUNNING")
            except Exception as error:
                raise ConfigError(
                    f"run.loggers: {str(out / IDS_FILE)!r} says that this run continues MLflow's "
                    f"run {known}, but the store {redacted(self._client.tracking_uri)!r} does not "
                    f"have it ({redacted(str(error))}); set MLFLOW_TRACKING_URI to the one it "
                    "began in, or remove that file to begin another."
                ) from public_cause(error)
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(experiment)
        number = (
            self._client.create_experiment(experiment) if found is None else found.experiment_id
        )
        name = os.environ.get("MLFLOW_RUN_NAME", config.name)
        self.id = self._client.create_run(number, run_name=name).info.run_id
        settings = flat_settings(public_settings(config.to_dict()))
        params = [Param(name, str(value)[:_MLFLOW_LENGTH]) for name, value in settings.items()]
        for start in range(0, len(params), _MLFLOW_PARAMS):
            self._client.log_batch(self.id, params=params[start : start + _MLFLOW_PARAMS])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers."""
        now = time.time_ns() // 10**6
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        """End the run."""
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


class TrackioTracker:
    """A trackio run: local, or in a Space if `TRACKIO_SPACE_ID` names one."""

    def __init__(self, config: TrainConfig, out: Path, known: str | None) -> None:
        """Begin a run, or continue the one `known`."""
        import trackio

        self.id = known or f"{config.name}-{uuid.uuid4().hex[:6]}"  # names identify runs
        with contextlib.redirect_stdout(sys.stderr):
            self._run: Any = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=self.id,
                resume="allow",
                config=public_settings(config.to_dict()),
                embed=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers."""
        self._run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        """End the run; trackio cannot record how it ended."""
        del finished
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()


TRACKERS: dict[str, Callable[[TrainConfig, Path, str | None], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
}


def open_tracker(name: str, config: TrainConfig, out: Path) -> Tracker:
    """Begin, or continue, a run in a tracker.

    Args:
        name: One of `TRACKERS`.
        config: The run; its settings are sent, without the user's folders.
        out: Its folder.

    Raises:
        ImportError: If its package is not installed.
        ConfigError: If it cannot start, for example for lack of a login.
    """
    ids = _ids(out)
    try:
        tracker = TRACKERS[name](config, out, ids.get(name))
    except (ConfigError, ImportError):
        raise
    except Exception as error:  # of any class, by the tracker or what it talks to
        raise ConfigError(
            f"run.loggers: {name} cannot start ({_reason(error)}); set it up, or leave {name} out."
        ) from public_cause(error)
    if ids.get(name) != tracker.id:
        write_json(out / IDS_FILE, {**ids, name: tracker.id})
    return tracker


class InBackground:
    """A logger that sends to a tracker from a thread, so that a slow network delays no step.

    If the tracker fails, it is dropped and training goes on.
    """

    def __init__(
        self, name: str, tracker: Tracker, last: int, warn: Callable[[str], None], step: int = 0
    ) -> None:
        """Take over a tracker.

        Args:
            name: Its name, for the warning.
            tracker: From :func:`open_tracker`.
            last: The run's last step; after it the run has finished.
            warn: Called at most once.
            step: Steps done before.
        """
        self._name, self._tracker, self._last, self._warn = name, tracker, last, warn
        self._finished = step >= last
        self._failed = False
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"log to {name}")
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand numbers to the thread."""
        self._finished = step >= self._last
        if not self._failed:
            self._queue.put((step, dict(values)))

    def close(self) -> None:
        """Wait until everything is sent, but at most `LAST_SECONDS`."""
        self._queue.put(None)
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            self._fail(f"it has not taken the last numbers in {LAST_SECONDS:g} seconds")

    def _work(self) -> None:
        try:
            while (entry := self._queue.get()) is not None:
                self._tracker.log(*entry)
            self._tracker.close(self._finished)
        except Exception as error:
            self._fail(_reason(error))

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self._warn(
                f"warning: {self._name} takes no more numbers ({reason}); training goes on, and "
                "the same numbers are in metrics.csv if csv is among run.loggers."
            )


def _reason(error: Exception) -> str:
    """Return the class of an error, and the first line of what it says, without passwords."""
    line, _, _ = redacted(str(error)).strip().partition("\n")
    return f"{type(error).__name__}: {line:.300}"


def _ids(out: Path) -> dict[str, str]:
    path = out / IDS_FILE
    try:
        found = read_json(path) if path.exists() else {}
    except ValueError as error:
        raise ConfigError(
            f"{str(path)!r} is damaged ({error}); remove it, and the run begins anew in its "
            "trackers."
        ) from None
    return {name: str(value) for name, value in found.items()}
