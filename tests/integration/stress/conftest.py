"""What the stress tests share: a tiny run, the same run left alone, and the table at the end."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import image_folder


@dataclasses.dataclass
class Row:
    """A line of the table.

    Attributes:
        fault: What was done to the runs.
        injected: How often.
        survived: How often the run went on afterwards, or ended with a clear error where it must.
        steps_lost: Steps that were done twice because of it.
        else_lost: Weights and logged numbers that differ from those of the undisturbed run.
    """

    fault: str
    injected: int = 0
    survived: int = 0
    steps_lost: int = 0
    else_lost: int = 0


_rows: list[Row] = []


@pytest.fixture
def row() -> Callable[[str], Row]:
    """A new line of the table."""

    def new(fault: str) -> Row:
        _rows.append(Row(fault))
        return _rows[-1]

    return new


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table."""
    if not _rows:
        return
    width = max(len(row.fault) for row in _rows)
    write = terminalreporter.write_line
    terminalreporter.section("faults")
    write(f"{'fault':<{width}}  injected  survived  lost: steps  lost: else")
    for row in _rows:
        counts = f"{row.injected:>8}  {row.survived:>8}  {row.steps_lost:>11}  {row.else_lost:>10}"
        write(f"{row.fault:<{width}}  {counts}")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 small images."""
    return image_folder(tmp_path_factory.mktemp("images"), [f"{i:02d}.png" for i in range(22)])


@pytest.fixture(scope="session")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    from stress_run import configuration
    from stress_runs import EPOCHS, start

    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run = start(configuration(images, epochs=EPOCHS), out)
    assert run.wait() == 0, run.said()
    return out
