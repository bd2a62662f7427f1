"""Speed and memory beside the peers: measures every row, prints a table, stores JSON.

Each row runs in a process of its own; within it the contestants take turns, the table shows
medians, and ratios are medians over the rounds. Finished rows are kept until all are done, so an
interrupted benchmark continues.

    python -m benchmarks.speed.bench [--rounds 5] [--out benchmarks/speed/results/bench.json] [ROW ...]
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.speed.row import Check, Row

ROWS = (
    "train_step",
    "conditioning",
    "augmentation",
    "decode",
    "probe",
    "extraction",
    "loading",
    "start",
    "retrieval",
    "scaling",
    "overhead",
    "stream_size",
    "gpu",
)
OUT = Path(__file__).parent / "results" / "bench.json"
PACKAGES = ("cassle-zoo", "torch", "torchvision", "timm", "pillow", "numpy", "kornia", "lightly")


def main() -> int:
    """Measure what is not measured yet; return 1 if a row failed."""
    parser = argparse.ArgumentParser(description="Speed and memory beside the peers.")
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each; default: 5")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help=f"default: {OUT}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}.")

    kept = args.out.with_suffix(".unfinished")
    kept.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = {}
    failed = False
    for name in args.names or ROWS:
        file = kept / f"{name}.json"
        if not file.exists():
            print(f"{name} ...", file=sys.stderr, flush=True)
            if not measured(name, args.rounds, file):
                failed = True
                continue
        rows[name] = json.loads(file.read_text(encoding="utf-8"))
    print(table(rows))
    if failed:
        print(f"Some rows failed; the others are kept in {kept}. Peers: pip install '.[bench]'")
        return 1
    record = {"rows": rows, "rounds": args.rounds, "versions": versions(), "machine": machine()}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for file in kept.iterdir():
        file.unlink()
    kept.rmdir()
    return 0


def measured(name: str, rounds: int, file: Path) -> bool:
    """Measure a row in a process of its own, which writes `file`; return whether it could."""
    command = [sys.executable, "-m", "benchmarks.speed.one_row", name, str(rounds), str(file)]
    return subprocess.run(command, check=False).returncode == 0


def as_record(row: Row) -> dict[str, Any]:
    """Return a row as JSON types."""
    return asdict(row)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Lay the rows out in Markdown."""
    lines = ["| work | measured | numbers and goals | met |", "| --- | --- | --- | --- |"]
    for row in rows.values():
        amounts = "; ".join(f"{k} {_short(v)}" for k, v in row["amounts"].items())
        amounts = f"{row['unit']}: {amounts}" if amounts else row["note"]
        checks = [Check(**check) for check in row["checks"]]
        numbers = "<br>".join(_stated(check) for check in checks)
        signs = {True: "yes", False: "no", None: "-"}
        met = "<br>".join(signs[check.met] for check in checks)
        lines.append(f"| {row['title']} | {amounts} | {numbers} | {met} |")
    return "\n".join(lines)


def _stated(check: Check) -> str:
    goals = []
    if check.at_least is not None:
        goals.append(f"≥ {check.at_least:g}")
    if check.at_most is not None:
        goals.append(f"≤ {check.at_most:g}")
    goal = f" ({' and '.join(goals)})" if goals else ""
    return f"{check.name}: **{_short(check.value)}**{goal}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
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


if __name__ == "__main__":
    sys.exit(main())
