import json
from pathlib import Path

import pytest

from cassle_zoo.records import EXPORT_FILE, PROJECTOR_FILE
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.run import export as final


def record(run: Path) -> dict[str, object]:
    training = json.loads((run / "final" / EXPORT_FILE).read_text())["training"]
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
    (tmp_path / "final" / PROJECTOR_FILE).unlink()
    loop.train(config, tmp_path, command="third")
    assert (tmp_path / "final" / PROJECTOR_FILE).is_file()
    assert record(tmp_path)["command"] == "third"
