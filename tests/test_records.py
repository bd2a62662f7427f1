import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from results import make_result

from cassle_zoo import records
from cassle_zoo.common.errors import DataError, ModelFolderError
from cassle_zoo.records import (
    EXPORT_FILE,
    FORMAT_VERSION,
    Result,
    RunExport,
    read_results,
    software_versions,
)

EXPORT = RunExport(
    name="resnet18_cassle_simclr.emoji64",
    method="simclr",
    timm_arch="resnet18",
    projector={"in_features": 512},
    input_size=(3, 64, 64),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    training={"steps": 10, "config": {"optim": {"epochs": 2}}},
)


def test_a_result_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "new" / "raw-pixels.json"
    original = make_result(series={"curve": [1, 0.5]}, files=["a.png"])
    original.save(path)
    assert Result.load(path) == original
    assert path.read_text() == original.to_json()
    assert json.loads(path.read_text())["format_version"] == FORMAT_VERSION
    assert [p.name for p in path.parent.iterdir()] == ["raw-pixels.json"]


def test_reads_results_sorted_by_file_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        make_result(name).save(tmp_path / f"{name}.json")
    assert [r.model.name for r in read_results(tmp_path)] == ["a", "b"]
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(DataError, match=r"c\.json is not a JSON object"):
        read_results(tmp_path)


def test_versions() -> None:
    assert set(software_versions()) == {"cassle_zoo", "python", "torch", "timm"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "format_version 1, .*reads 2; .*`cassle-zoo upgrade PATH`"),
        ({"format_version": None}, "an earlier format, .*`cassle-zoo upgrade PATH`"),
        ({"format_version": 3}, "format_version 3, .*update cassle-zoo"),
        ({"seed": "0"}, "seed is '0', expected a whole number"),
        ({"seed": True}, "seed is True, expected a whole number"),
        ({"extra": 1}, "has unknown extra"),
        ({"model": {"name": "x"}}, "model lacks sha256"),
        ({"model": {"name": "x", "sha256": 1}}, r"model\.sha256 is 1, expected a text"),
        ({"model": "x"}, "model is 'x', expected an object"),
        ({"data": {"name": "x", "sha256": None}}, r"data\.sha256 is None"),
        ({"data": {"name": "x", "sha256": "0", "more": 1}}, "data has unknown more"),
        ({"seconds": {"total": "1"}}, r"seconds\.total is '1', expected a number"),
        ({"metrics": {"flags": 0.5}}, r"metrics\.flags is 0\.5, expected an object"),
        ({"metrics": {"flags": {"recall@1": "0.5"}}}, r"flags\.recall@1 is '0\.5'"),
        ({"metrics": {"flags": {"recall@1": None}}}, r"flags\.recall@1 is None"),
        ({"metrics": {"flags": {"recall@1": float("nan")}}}, r"recall@1 must not be nan"),
        ({"metrics": {"flags": {"recall@1": float("inf")}}}, r"recall@1 must not be inf"),
        ({"metrics": {"flags": {"recall@1": 10**400}}}, r"flags\.recall@1 is too large"),
        ({"series": {"curve": [10**400]}}, r"series\.curve is too large"),
        ({"series": {"curve": [1, "2"]}}, r"series\.curve is '2', expected a number"),
        ({"files": ["a", "../b"]}, r"files must not be '\.\./b'"),
    ],
)
def test_reading_a_result_is_strict(change: dict[str, Any], message: str) -> None:
    content = json.loads(make_result().to_json()) | change
    with pytest.raises(DataError, match=message):
        Result.from_json(json.dumps(content))


@pytest.mark.parametrize(
    "field", ["task", "model", "data", "protocol", "metrics", "seed", "command"]
)
def test_an_incomplete_result_is_refused(field: str) -> None:
    content = json.loads(make_result().to_json())
    del content[field]
    with pytest.raises(DataError, match=f"lacks {field}"):
        Result.from_json(json.dumps(content))


def test_what_is_not_json_is_named(tmp_path: Path) -> None:
    for text in ("", "[]", "{"):
        with pytest.raises(DataError, match=r"a\.json"):
            Result.from_json(text, "a.json")
    with pytest.raises(DataError, match="cannot read"):
        Result.load(tmp_path / "absent.json")


def test_results_are_comparable_if_measured_in_the_same_way() -> None:
    own = make_result("one", protocol={"k-NN": "k=20", "input": "a", "chosen w": 1})
    assert own.is_comparable(make_result("two", sha256="0", metrics={}, command="x"))
    different: list[dict[str, Any]]
    different = [{"seed": 1}, {"data_sha256": "0"}, {"protocol": {}}, {"task": "knn"}]
    for changes in different:
        assert not own.is_comparable(make_result("two", **changes))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("raw-pixels", True), ("random-init:resnet18", True), ("resnet18_simclr.emoji64", False)],
)
def test_baselines(name: str, expected: bool) -> None:
    assert make_result(name).is_baseline == expected


def test_an_export_round_trips(tmp_path: Path) -> None:
    EXPORT.save(tmp_path)
    assert RunExport.read(tmp_path) == EXPORT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "`cassle-zoo upgrade PATH`"),
        ({"method": 3}, "method is 3, expected a text"),
        ({"mean": None}, "mean is None, expected a list"),
        ({"mean": [0.5]}, r"mean is \[0\.5\], expected 3 values"),
        ({"std": [0.5, 0.5, float("nan")]}, "std must not be nan"),
        ({"input_size": [3, 64, 64.5]}, r"input_size is 64\.5, expected a whole number"),
    ],
)
def test_a_malformed_export_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    EXPORT.save(tmp_path)
    path = tmp_path / EXPORT_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelFolderError, match=rf"export\.json.*{message}"):
        RunExport.read(tmp_path)


def test_no_git_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    assert records._commit(tmp_path) is None  # git finds it empty
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records._commit(tmp_path) is None


def test_commit_of_the_code_and_not_of_what_it_is_installed_in(tmp_path: Path) -> None:
    words = "-c user.name=a -c user.email=a@b commit -q --allow-empty -m first"
    for command in ("init -q", words):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert records._commit(tmp_path) == head.stdout.strip()
    (tmp_path / "site-packages").mkdir()
    assert records._commit(tmp_path / "site-packages") is None
