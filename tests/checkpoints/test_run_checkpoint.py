import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint, save_checkpoint
from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.records import CHECKPOINT_FILE, PREVIOUS_CHECKPOINT_FILE


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    latest, previous = tmp_path / CHECKPOINT_FILE, tmp_path / PREVIOUS_CHECKPOINT_FILE
    assert load_checkpoint(tmp_path) == (None, [], None)
    save_checkpoint(tmp_path, {"step": 1})
    save_checkpoint(tmp_path, {"step": 2})
    assert load_checkpoint(tmp_path) == ({"step": 2}, [], latest)
    content = bytearray(latest.read_bytes())
    content[200] ^= 1
    latest.write_bytes(content)
    assert load_checkpoint(tmp_path) == ({"step": 1}, [CHECKPOINT_FILE], previous)
    latest.unlink()
    assert load_checkpoint(tmp_path) == ({"step": 1}, [], previous)
    previous.write_bytes(b"")
    with pytest.raises(ModelFolderError, match="damaged"):
        load_checkpoint(tmp_path)


def test_failed_write_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"step": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, {"step": 2})
    assert load_checkpoint(tmp_path)[:2] == ({"step": 1}, [])
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE]


def test_checkpoint_runs_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    content = pickle.dumps(Evil())
    digest = sha256(content).encode()
    (tmp_path / CHECKPOINT_FILE).write_bytes(digest + b"\n" + content)
    with pytest.raises(ModelFolderError, match="not a checkpoint") as caught:
        load_checkpoint(tmp_path)
    assert "weights_only" not in str(caught.value)  # torch's advice is to run it
    assert not marker.exists()
