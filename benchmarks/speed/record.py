"""The record of a row: what was measured, with which versions, on which machine, and when."""

import datetime
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.speed.timing import Row
from cassle_zoo.cli.env import installed_version
from cassle_zoo.common.files import write_json

PACKAGES = (
    *("cassle-zoo", "torch", "torchvision", "timm", "pillow", "numpy"),
    *("kornia", "lightly", "lightly-train"),
)


def record_row(measure: Callable[[int], Row], rounds: int, file: Path) -> None:
    """Measure a row in this process and write it to a file."""
    row = asdict(measure(rounds))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    how = {"date": date, "rounds": rounds, "versions": versions(), "machine": machine()}
    write_json(file, {**row, "measured": how})


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages."""
    packages = {name: installed_version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages}


def in_words(measured: Mapping[str, Any]) -> str:
    """Return the machine and the versions of a record on a line."""
    own, packaged = measured["machine"], measured["versions"]
    packages = ("torch", "timm", "kornia", "lightly", "lightly-train")
    return (
        f"{own['cores']} core{'s' * (own['cores'] != 1)} of {own['processor']} with "
        f"{', '.join(own['instructions']) or 'no AVX2'}, "
        f"{', '.join(f'{name} {packaged[name]}' for name in packages if name in packaged)}"
    )
