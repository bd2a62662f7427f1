import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.speed import __main__ as bench
from benchmarks.speed.timing import Check, Row, medians, speeds, take_turns, times_faster
from cassle_zoo.common.files import read_json

ROOT = Path(__file__).parents[2]


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


def test_rows_are_imported_without_the_peers() -> None:
    assert all(map(callable, bench.ROWS.values()))
    code = "import sys, benchmarks.speed.__main__; print({'kornia', 'lightly'} & set(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    assert output.strip() == "set()"


def test_an_interrupted_benchmark_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    argv = ["--rounds", "2", "--out", str(out), "loading", "gpu"]
    asked: list[str] = []
    broken = {"gpu"}

    class InThisProcess:
        def __init__(self, target: Callable[..., None], args: tuple[object, int, Path]) -> None:
            _, rounds, file = args
            name = file.stem
            asked.append(name)
            row = Row(title=f"row {name}", checks=[Check(name="part", value=0.5, at_least=0.9)])
            if name not in broken:
                target({2: row}.__getitem__, rounds, file)

        def start(self) -> None:
            pass

        join = start

    monkeypatch.setattr("multiprocessing.context.SpawnContext.Process", InThisProcess)
    assert bench.main(argv) == 1
    assert not out.exists()
    broken.clear()
    assert bench.main(argv) == 0
    assert asked == ["loading", "gpu", "gpu"]
    assert list(json.loads(out.read_text())["rows"]) == ["loading", "gpu"]
    assert list(tmp_path.iterdir()) == [out]
    assert "| row gpu |  | part: **0.5** (≥ 0.9) | no |" in capsys.readouterr().out


def test_the_documents_show_what_was_recorded() -> None:
    table = bench.table(read_json(bench.RESULTS)["rows"])
    assert table in (ROOT / "docs" / "speed.md").read_text("utf-8")
