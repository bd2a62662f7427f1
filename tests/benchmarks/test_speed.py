import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.machine import machine
from benchmarks.speed import __main__ as bench
from benchmarks.speed.record import in_words
from benchmarks.speed.timing import (
    Check,
    Row,
    compare,
    median_interval,
    medians,
    speeds,
    take_turns,
    times_faster,
)
from benchmarks.speed.workloads import random_batch
from cassle_zoo.common.files import read_json


def test_contestants_take_turns_and_warm_turns_do_not_count() -> None:
    order: list[str] = []

    def turn(name: str, seconds: float | None) -> float | None:
        order.append(name)
        return seconds

    turns = {"a": lambda: turn("a", None), "b": lambda: turn("b", 2.0)}
    seconds = take_turns(turns, 3, warm=1)
    assert order == ["a", "b"] * 4
    assert seconds["b"] == [2.0, 2.0, 2.0]
    assert all(value >= 0 for value in seconds["a"])


def test_ratios_are_of_the_same_round() -> None:
    seconds = {"ours": [1.0, 10.0, 1.0], "peer": [2.0, 20.0, 3.0]}
    assert times_faster(seconds, "ours", "peer") == 2
    assert medians(seconds) == {"ours": 1, "peer": 3}
    assert speeds(seconds, 6) == {"ours": 6, "peer": 2}


def test_who_begins_a_comparison_alternates_and_the_first_pair_does_not_count() -> None:
    order: list[str] = []
    seconds = compare(lambda: order.append("a"), lambda: order.append("b"), 3)
    assert "".join(order) == "baabbaab"
    assert list(map(len, seconds)) == [3, 3]
    assert all(value >= 0 for values in seconds for value in values)


def test_the_processor_time_of_a_comparison_leaves_out_waiting() -> None:
    waiting, working = compare(lambda: time.sleep(0.05), lambda: sum(range(10**6)), 2)
    assert max(waiting) < 0.02 < 0.05
    assert min(working) > 0


@pytest.mark.parametrize(("count", "left_out"), [(5, 0), (6, 0), (9, 1), (20, 5), (100, 39)])
def test_the_interval_of_the_median_is_of_order_statistics(count: int, left_out: int) -> None:
    # As tabulated for sign-test intervals: 6 (1, 6), 9 (2, 8), 20 (6, 15), 100 (40, 61).
    values = [float(value) for value in reversed(range(count))]
    assert median_interval(values) == (left_out, count - 1 - left_out)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        ({}, None),
        ({"at_least": 2.0}, True),
        ({"at_least": 2.1}, False),
        ({"at_most": 2.0}, True),
        ({"at_most": 1.9}, False),
    ],
)
def test_goals(goal: dict[str, float], met: bool | None) -> None:
    assert Check(name="number", value=2.0, **goal).met is met


def test_no_module_imports_the_peers_at_its_top() -> None:
    assert all(map(callable, bench.ROWS.values()))
    files = [*Path(bench.__file__).parent.rglob("*.py")]
    at_the_top = re.compile(r"^(?:import|from) (?:kornia|lightly)", re.MULTILINE)
    assert len(files) > len(bench.ROWS)
    assert not [file for file in files if at_the_top.search(file.read_text("utf-8"))]


def test_the_machine_is_described_where_processors_have_no_affinity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert machine()["cores"] == os.cpu_count()


class Measurements:
    """Stands for the processes that measure: which rows were asked for, and which break."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.value = 0.5

    def Process(self, target: Callable[..., None], args: tuple[object, int, Path]) -> Any:
        _, rounds, file = args

        def run() -> None:
            self.asked.append(file.stem)
            check = Check(name="part", value=self.value, at_least=0.9)
            if file.stem not in self.broken:
                target(lambda _: Row(title=f"row {file.stem}", checks=[check]), rounds, file)

        return SimpleNamespace(start=run, join=lambda: None)


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> Measurements:
    there = Measurements()
    monkeypatch.setattr("multiprocessing.get_context", lambda method: there)
    return there


def test_an_interrupted_benchmark_continues(
    tmp_path: Path, measurements: Measurements, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    argv = ["--rounds", "2", "--out", str(out), "loading", "gpu"]
    measurements.broken = {"gpu"}
    assert bench.main(argv) == 1
    assert not out.exists()
    measurements.broken.clear()
    assert bench.main(argv) == 0
    assert measurements.asked == ["loading", "gpu", "gpu"]
    assert list(json.loads(out.read_text())["rows"]) == ["loading", "gpu"]
    assert list(tmp_path.iterdir()) == [out]
    assert "| row gpu (a) |  | part: **0.5** (≥ 0.9, missed) |" in capsys.readouterr().out


def test_rows_of_another_number_of_rounds_are_measured_again(
    tmp_path: Path, measurements: Measurements
) -> None:
    argv = ["--out", str(tmp_path / "bench.json"), "loading", "gpu"]
    measurements.broken = {"gpu"}
    assert bench.main(["--rounds", "1", *argv]) == 1
    measurements.broken.clear()
    assert bench.main(["--rounds", "2", *argv]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [row["measured"]["rounds"] for row in rows.values()] == [2, 2]


def test_no_rounds_are_refused(measurements: Measurements) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--rounds", "0", "loading"])
    assert measurements.asked == []


def test_rows_are_measured_again_without_the_others(
    tmp_path: Path, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench.json"
    assert bench.main(["--rounds", "2", "--out", str(out), "loading", "start"]) == 0
    before = json.loads(out.read_text())["rows"]
    monkeypatch.setattr("benchmarks.speed.record.versions", lambda: {"torch": "99.0"})
    measurements.value = 0.95
    argv = ["--update", "--rounds", "3", "--out", str(out), "start", "probe"]
    assert bench.main(argv) == 0
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["probe", "loading", "start"]  # in the order of all rows
    assert rows["loading"] == before["loading"]
    assert rows["start"]["checks"][0]["value"] == 0.95
    assert [rows[name]["measured"]["rounds"] for name in rows] == [3, 2, 3]
    assert rows["start"]["measured"]["versions"] == {"torch": "99.0"}
    titles = [line.split(" | ")[0] for line in bench.table(rows).splitlines()[2:]]
    assert titles == ["| row probe (a)", "| row loading (b)", "| row start (a)"]
    lines = bench.measured(rows).splitlines()
    assert [line[:5] for line in lines] == ["- (a)", "- (b)"]
    assert lines[0].endswith("torch 99.0")


def test_a_record_puts_its_table_into_the_page(
    tmp_path: Path, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "speed.md"
    page.write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "bench.json")
    assert bench.main(["--update", "gpu"]) == 0
    before, table, after = page.read_text("utf-8").partition("row gpu (a)")
    assert before.startswith(f"before\n{bench.BEGIN}\n| work |")
    assert after.endswith(f"\n{bench.END}\nafter\n")
    assert table
    assert "old" not in before + after


def test_the_documents_show_what_was_recorded() -> None:
    rows = read_json(bench.RESULTS)["rows"]
    page = bench.PAGE.read_text("utf-8")
    assert bench.table(rows) in page
    assert bench.measured(rows) in page


def test_a_record_says_where_it_was_measured() -> None:
    machine = {"cores": 2, "processor": "a Xeon", "instructions": []}
    versions = {"torch": "2.15.0", "lightly": "1.6.0", "numpy": "2.4.6"}
    words = in_words({"machine": machine, "versions": versions})
    assert words == "2 cores of a Xeon with no AVX2, torch 2.15.0, lightly 1.6.0"


def test_random_batches_can_be_pinned() -> None:
    assert all(values.is_contiguous() for values in random_batch(2, 8).values())
