"""Measure one row in this process: ``python -m benchmarks.speed.one_row NAME ROUNDS FILE``."""

import importlib
import json
import sys
from pathlib import Path

from benchmarks.speed.bench import as_record

if __name__ == "__main__":
    name, rounds, file = sys.argv[1:]
    row = importlib.import_module(f"benchmarks.speed.rows.{name}").measure(int(rounds))
    Path(file).write_text(json.dumps(as_record(row)), encoding="utf-8")
