"""Measure one row in this process: ``python -m benchmarks.one_row NAME ROUNDS FILE``."""

import json
import sys
from pathlib import Path

from benchmarks.bench import measure

if __name__ == "__main__":
    name, rounds, file = sys.argv[1:]
    measured = json.dumps(measure(name, int(rounds)))
    Path(file).write_text(measured, encoding="utf-8")
