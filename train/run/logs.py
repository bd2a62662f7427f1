"""Loggers of a run's numbers: a CSV file, TensorBoard, and a progress bar."""

import csv
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from cassle_zoo.common.files import atomic_write

CSV_FILE = "metrics.csv"
_LONGEST = 1000  # characters in a line


class Logger(Protocol):
    """Takes named numbers."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` after `step` steps."""

    def close(self) -> None:
        """Write out what is buffered."""


class CsvLogger:
    """Rows of (step, name, value), so that any number may be logged at any step."""

    def __init__(self, folder: Path, step: int) -> None:
        """Continue the folder's file; rows later than `step` belong to lost steps and go."""
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


def open_loggers(names: tuple[str, ...], folder: Path, step: int) -> list[Logger]:
    """Open the loggers of these names, continuing after `step` steps."""
    return [LOGGERS[name](folder, step) for name in names]


class Progress:
    """A progress bar with images per second and time left; plain lines where no terminal is."""

    def __init__(self, first: int, last: int, batch_size: int) -> None:
        """Show steps `first` to `last`."""
        self._bar = tqdm(
            initial=first * batch_size,
            total=last * batch_size,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._batch_size = batch_size

    def advance(self) -> None:
        """Advance by one batch."""
        self._bar.update(self._batch_size)

    def show(self, values: Mapping[str, float]) -> None:
        """Show the latest numbers next to the bar."""
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})

    def message(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """Return the rows up to a step that are whole; a crash or an editor may have spoilt others."""
    text = path.read_text(encoding="utf-8", errors="replace")
    parsed = (next(csv.reader([line]), []) for line in text.splitlines() if len(line) < _LONGEST)
    return [row for row in parsed if len(row) == 3 and _within(row[0], step)]


def _within(text: str, step: int) -> bool:
    # Not isdigit, which takes ² as well.
    return text.isascii() and text.isdecimal() and int(text) <= step
