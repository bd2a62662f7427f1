"""Time to start: ``import cassle_zoo`` and ``cassle-zoo list`` beside ``import timm``.

Every measurement is a fresh interpreter, from its start to its exit; the commands take turns, so
that a slow moment of the machine hits all of them. The first round only warms the file cache.

    python benchmarks/speed/import_time.py [--rounds 5] [--json FILE]
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python (nothing)": ["-c", "pass"],
    "import cassle_zoo": ["-c", "import cassle_zoo"],
    "cassle-zoo list": ["-m", "cassle_zoo", "list"],
    "import timm": ["-c", "import timm"],
}
REFERENCE = "import timm"


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every run by command."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description="Start-up times in fresh processes.")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; default: 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements here")
    args = parser.parse_args()

    seconds = measure(args.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'':20} {'median':>9} {'slowest':>9} {REFERENCE + ' is':>16}")
    for name, median in medians.items():
        ratio = medians[REFERENCE] / median
        print(f"{name:20} {median:7.3f} s {max(seconds[name]):7.3f} s {ratio:15.1f}x")

    if args.json:
        versions = {name: importlib.metadata.version(name) for name in ("timm", "torch")}
        record = {
            "seconds": seconds,
            "medians": medians,
            "versions": {"python": platform.python_version(), **versions},
            "machine": {"system": platform.platform(), "processor": platform.machine()},
        }
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
