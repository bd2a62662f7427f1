"""The reporter of a run's numbers, and its local loggers: a CSV file and TensorBoard."""

import csv
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from cassle_zoo.common.errors import MissingDependencyError
from cassle_zoo.common.files import atomic_write
from cassle_zoo.common.terminal import printable
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.distributed import process_group
from cassle_zoo.train.run.trackers import InBackground, open_tracker

CSV_FILE = "metrics.csv"
_LONGEST = 1000  # characters in a line
_FEWEST_ENTRIES = 10  # in the log of a run


class Logger(Protocol):
    """Takes named numbers."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` after `step` steps."""

    def close(self) -> None:
        """Write out what is buffered."""


class CsvLogger:
    """Rows of (step, name, value), so that any number may be logged at any step."""

    def __init__(self, folder: Path, step: int) -> None:
        """Continue the folder's file; rows later than `step` are of lost steps, and are dropped."""
        path = folder / CSV_FILE
        rows = _rows_until(path, step) if path.exists() else []
        with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["step", "name", "value"], *rows])
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row per value."""
        self._writer.writerows([step, name, repr(value)] for name, value in values.items())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardLogger:
    """Scalars in the folder's `tensorboard` sub-folder."""

    def __init__(self, folder: Path, step: int) -> None:
        """Continue at `step`; TensorBoard hides what lost steps wrote after it."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a scalar per value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # else the last two minutes before an error would be lost

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


LOGGERS: dict[str, Callable[[Path, int], Logger]] = {
    "csv": CsvLogger,
    "tensorboard": TensorBoardLogger,
}


class Reporter:
    """Sends a run's numbers to the loggers and a progress bar (plain lines without a terminal).

    In all processes but the first it does nothing.
    """

    def __init__(self, config: TrainConfig, out: Path, step: int, total: int) -> None:
        """Open the loggers and the bar, continuing after `step` of `total` steps."""
        self._config = config
        self._log_every = min(config.run.log_every, max(1, total // _FEWEST_ENTRIES))
        self._total = total
        self._first = process_group.rank() == 0
        loggers = config.run.loggers if self._first else ()
        self._loggers = [self._open(name, out, step) for name in loggers]
        self._bar = tqdm(
            initial=step * config.optim.batch_size,
            total=total * config.optim.batch_size,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not (self._first and sys.stderr.isatty()),
        )
        self._mark = (step, time.perf_counter())

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one step; log them every `log_every` steps, or more often."""
        self._bar.update(self._config.optim.batch_size)
        if step % self._log_every == 0 or step == self._total:
            since, clock = self._mark
            self._mark = (step, time.perf_counter())
            seconds = self._mark[1] - clock
            speed = (step - since) * self._config.optim.batch_size / seconds
            self._log(step, {**values, "images_per_second": speed})
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})

    def epoch(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Log and print the numbers at the end of an epoch."""
        self._log(step, {"epoch": epoch, **{k: v for k, v in values.items() if k != "loss"}})
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.message(f"epoch {epoch}/{self._config.optim.epochs}  {numbers}")
        self._mark = (step, time.perf_counter())

    def message(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if self._first:
            tqdm.write(printable(text), file=sys.stderr)

    def close(self) -> None:
        """Flush and close everything."""
        for logger in self._loggers:
            logger.close()
        self._bar.close()

    def _open(self, name: str, out: Path, step: int) -> Logger:
        try:
            if name in LOGGERS:
                return LOGGERS[name](out, step)
            tracker = open_tracker(name, self._config, out)
        except ImportError as error:
            raise MissingDependencyError(
                f"run.loggers {name!r} needs the package {error.name or name}: "
                f"pip install 'cassle-zoo[{name}]'"
            ) from error
        return InBackground(name, tracker, self._total, self.message, step)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        finite_values = {name: value for name, value in values.items() if math.isfinite(value)}
        for logger in self._loggers:
            logger.log(step, finite_values)


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """Return the intact rows up to a step; a crash or an editor may have damaged others."""
    text = path.read_text(encoding="utf-8", errors="replace")
    parsed = (next(csv.reader([line]), []) for line in text.splitlines() if len(line) < _LONGEST)
    return [
        row
        for row in parsed
        if len(row) == 3 and re.fullmatch("[0-9]+", row[0]) and int(row[0]) <= step
    ]
