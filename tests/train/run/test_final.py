import json
import subprocess
from pathlib import Path

import pytest

from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.run import export as final


def record(run: Path) -> dict[str, object]:
    training = json.loads((run / "final" / final.EXPORT_FILE).read_text())["training"]
    assert isinstance(training, dict)
    return training


def test_a_finished_run_keeps_what_it_was_finished_with(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(config, tmp_path, command="first")
    before = record(tmp_path)
    monkeypatch.setattr(final, "code_version", lambda: {"commit": "another"})
    loop.train(config, tmp_path, command="second")
    assert record(tmp_path) == before
    (tmp_path / "final" / final.PROJECTOR_FILE).unlink()
    loop.train(config, tmp_path, command="third")
    assert (tmp_path / "final" / final.PROJECTOR_FILE).is_file()
    assert record(tmp_path)["command"] == "third"


def test_no_git_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    assert final._commit(tmp_path) is None  # git finds it empty
    monkeypatch.setenv("PATH", str(tmp_path))
    assert final._commit(tmp_path) is None


def test_commit_of_the_code_and_not_of_what_it_is_installed_in(tmp_path: Path) -> None:
    words = "-c user.name=a -c user.email=a@b commit -q --allow-empty -m first"
    for command in ("init -q", words):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert final._commit(tmp_path) == head.stdout.strip()
    (tmp_path / "site-packages").mkdir()
    assert final._commit(tmp_path / "site-packages") is None
