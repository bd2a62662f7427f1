import importlib
import json
from pathlib import Path

import pytest

from benchmarks.speed import bench
from benchmarks.speed.row import Check, Row, medians, speeds, take_turns, times_faster


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


@pytest.mark.parametrize("name", bench.ROWS)
def test_rows_can_be_imported_without_the_peers(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.speed.rows.{name}").measure)


def test_an_interrupted_benchmark_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    monkeypatch.setattr("sys.argv", ["bench", "--rounds", "2", "--out", str(out), "loading", "gpu"])
    asked: list[str] = []
    broken = {"gpu"}

    def measured(name: str, rounds: int, file: Path) -> bool:
        assert rounds == 2
        asked.append(name)
        row = Row(title=f"row {name}", checks=[Check(name="share", value=0.5, at_least=0.9)])
        if name not in broken:
            file.write_text(json.dumps(bench.as_record(row)))
        return name not in broken

    monkeypatch.setattr(bench, "measured", measured)
    assert bench.main() == 1
    assert not out.exists()
    broken.clear()
    assert bench.main() == 0
    assert asked == ["loading", "gpu", "gpu"]
    assert list(json.loads(out.read_text())["rows"]) == ["loading", "gpu"]
    assert list(tmp_path.iterdir()) == [out]
    assert "| row gpu |  | share: **0.5** (≥ 0.9) | no |" in capsys.readouterr().out


def test_the_readme_shows_what_was_recorded() -> None:
    root = Path(__file__).parents[2]
    record = json.loads((root / "benchmarks" / "speed" / "results" / "bench.json").read_text())
    assert bench.table(record["rows"]) in (root / "README.md").read_text()
