"""The record of a row: what was measured, with which versions, on which machine, and when."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.speed.timing import Row
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
    """Return the versions of Python and of the installed packages."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Describe the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = dict(line.partition(":")[::2] for line in lines if ":" in line)
    cpu = {key.strip(): value.strip() for key, value in fields.items()}
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "instructions": [name for name in wanted if name in cpu.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS", "all cores"),
        "load": list(os.getloadavg()),
        "system": platform.platform(),
    }


def in_words(measured: Mapping[str, Any]) -> str:
    """Return the machine and the versions of a record on a line."""
    machine, versions = measured["machine"], measured["versions"]
    packages = ("torch", "timm", "kornia", "lightly", "lightly-train")
    return (
        f"{machine['cores']} cores of {machine['processor']} with "
        f"{', '.join(machine['instructions']) or 'no AVX2'}, "
        f"{', '.join(f'{name} {versions[name]}' for name in packages if name in versions)}"
    )
