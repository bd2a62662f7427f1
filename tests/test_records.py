import json

import pytest

from cassle_zoo.common.errors import DataError
from cassle_zoo.records import SCHEMA, Result, now_utc, software_versions


def result(**changes):
    values = {
        "task": "emoji64",
        "model": {"name": "raw-pixels", "sha256": None},
        "data": {"name": "emoji64", "sha256": "a" * 64},
        "protocol": {"k-NN": "cosine"},
        "metrics": {"flags": {"recall@1": 0.5}},
        "seed": 0,
        "versions": software_versions(),
        "command": "cassle-zoo eval emoji64 raw-pixels --data emoji64.tar --seed 0",
        "seconds": {"features": 1.5},
        "created": now_utc(),
    }
    return Result(**(values | changes))


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "raw-pixels.json"
    original = result()
    original.save(path)
    assert Result.load(path) == original
    assert path.read_text() == original.to_json()
    assert json.loads(path.read_text())["schema"] == SCHEMA
    assert [p.name for p in path.parent.iterdir()] == ["raw-pixels.json"]


def test_versions():
    assert set(result().versions) == {"cassle_zoo", "python", "torch", "timm"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"schema": None}, "schema None"),
        ({"seed": "0"}, "seed is '0', expected int"),
        ({"seed": True}, "seed is True, expected int"),
        ({"extra": 1}, "lacks nothing and has extra"),
        ({"model": {"name": "x"}}, "expected name and sha256"),
        ({"model": {"name": "x", "sha256": 1}}, "expected name and sha256"),
        ({"data": {"name": "x", "sha256": None}}, "expected name and sha256"),
        ({"seconds": {"total": "1"}}, "seconds of total are '1'"),
        ({"metrics": {"flags": 0.5}}, "expected an object"),
        ({"metrics": {"flags": {"recall@1": "0.5"}}}, "flags recall@1 is '0.5'"),
        ({"metrics": {"flags": {"recall@1": float("nan")}}}, "recall@1 is nan"),
    ],
)
def test_reading_is_strict(change, message):
    content = json.loads(result().to_json()) | change
    with pytest.raises(DataError, match=message):
        Result.from_json(json.dumps(content))


def test_missing_field_and_no_json(tmp_path):
    content = json.loads(result().to_json())
    del content["command"]
    with pytest.raises(DataError, match="lacks command"):
        Result.from_json(json.dumps(content))
    for text in ("", "[]", "{"):
        with pytest.raises(DataError, match=r"a\.json"):
            Result.from_json(text, "a.json")
    with pytest.raises(DataError, match="cannot read"):
        Result.load(tmp_path / "absent.json")
