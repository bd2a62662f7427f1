"""Benchmark of speed and memory beside peers: measures rows, prints a table and records JSON.

Each row runs in its own process, in which the contestants take turns. The table shows medians over
the rounds, also of ratios. An interrupted benchmark continues: finished rows are stored in a folder
beside the JSON file until all are done. Rows can be measured again without the others; each records
its versions and machine.
"""

import argparse
import multiprocessing
import shutil
import string
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.record import in_words, record_row
from benchmarks.speed.rows import (
    adaptation,
    augmentation,
    decode,
    extraction,
    gpu,
    loading,
    overhead,
    photos,
    probe,
    retrieval,
    scaling,
    start,
    stream_size,
    train_step,
    trainer,
)
from benchmarks.speed.timing import Check, Row
from cassle_zoo.common.files import read_json, write_json, write_text
from cassle_zoo.common.markdown import table as markdown_table

ROWS: Mapping[str, Callable[[int], Row]] = {
    "train_step": train_step.measure,
    "conditioning": overhead.measure_conditioning,
    "augmentation": augmentation.measure,
    "decode": decode.measure,
    "probe": probe.measure,
    "extraction": extraction.measure,
    "large_photos": photos.measure_large,
    "small_photos": photos.measure_small,
    "loading": loading.measure,
    "start": start.measure,
    "retrieval": retrieval.measure,
    "scaling": scaling.measure,
    "overhead": overhead.measure,
    "trainer": trainer.measure,
    "adaptation": adaptation.measure,
    "stream_size": stream_size.measure,
    "gpu": gpu.measure,
}
RESULTS = Path(__file__).parent / "results" / "bench.json"
PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
BEGIN, END = "<!-- begin: benchmarks/speed/results/bench.json -->", "<!-- end -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the missing rows; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description="Measure speed and memory beside peers."
    )
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each; default: 5")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"record the numbers here; default: {RESULTS} if all rows are measured, else nowhere",
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help=f"record the named rows in the file (default: {RESULTS}), and keep its others",
    )
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}.")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}.")
    if args.names and args.out is None and not args.update:
        with tempfile.TemporaryDirectory() as folder:
            return 0 if show(measure_all(args.names, args.rounds, Path(folder))) else 1
    out = args.out or RESULTS
    unfinished = out.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    rows = measure_all(args.names or list(ROWS), args.rounds, unfinished)
    if not show(rows):
        print(f"The finished rows are in {unfinished}; the same command continues.")
        return 1
    kept = read_json(out)["rows"] if args.update and out.exists() else {}
    rows = kept | rows
    write_json(out, {"rows": {name: rows[name] for name in ROWS if name in rows}})
    shutil.rmtree(unfinished)
    if out == RESULTS:
        write_page()
    return 0


def write_page() -> None:
    """Put the recorded table into the document."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = read_json(RESULTS)["rows"]
    write_text(PAGE, f"{before}{BEGIN}\n{table(rows)}\n\n{measured(rows)}\n{END}{after}")


def measure_all(names: Sequence[str], rounds: int, folder: Path) -> dict[str, Any]:
    """Measure the rows that have no file in a folder yet; return all, None for those that failed.

    A file with another number of rounds is replaced.
    Each is measured in its own process, with its own memory and imports.
    """
    rows: dict[str, Any] = {}
    for name in names:
        file = folder / f"{name}.json"
        if file.exists() and read_json(file)["measured"].get("rounds") != rounds:
            file.unlink()
        if not file.exists():
            print(f"{name} ...", file=sys.stderr, flush=True)
            process = multiprocessing.get_context("spawn").Process(
                target=record_row, args=(ROWS[name], rounds, file)
            )
            process.start()
            process.join()
        rows[name] = read_json(file) if file.exists() else None
    return rows


def show(rows: Mapping[str, Any]) -> bool:
    """Print rows as a table; return whether there are all."""
    print(table({name: row for name, row in rows.items() if row is not None}))
    failed = [name for name, row in rows.items() if row is None]
    if failed:
        print(f"Not measured: {', '.join(failed)}. Peers: pip install '.[bench]'")
    return not failed


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay rows out in Markdown; the letter after a title refers to a line of `measured`."""
    letters = _letters(rows)
    cells = []
    for row in rows.values():
        how = letters[_how(row)]
        amounts = "; ".join(f"{k} {_short(v)}" for k, v in row["amounts"].items())
        parts = [f"{row['unit']}: {amounts}"] if amounts else []
        checks = [Check(**check) for check in row["checks"]]
        cells.append(
            [
                f"{row['title']} ({how})",
                "<br>".join([*parts, *filter(None, [row["note"]])]),
                "<br>".join(_stated(check) for check in checks),
            ]
        )
    return markdown_table(["work", "measured", "numbers and goals"], cells)


def measured(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Say on which machine and with which versions rows were measured, a line for each."""
    return "\n".join(f"- ({letter}) {how}" for how, letter in _letters(rows).items())


def _letters(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return dict(zip(dict.fromkeys(map(_how, rows.values())), string.ascii_lowercase, strict=False))


def _how(row: Mapping[str, Any]) -> str:
    return in_words(row["measured"])


def _stated(check: Check) -> str:
    goals = []
    if check.at_least is not None:
        goals.append(f"≥ {check.at_least:g}")
    if check.at_most is not None:
        goals.append(f"≤ {check.at_most:g}")
    missed = ", missed" if check.met is False else ""
    goal = f" ({' and '.join(goals)}{missed})" if goals else ""
    return f"{check.name}: **{_short(check.value)}**{goal}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
