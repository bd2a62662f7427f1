"""Checkpoints of a run: they survive interruptions, and reading them runs no code in them.

A checkpoint is one file: the SHA-256 of its content on the first line, then the content, which
holds tensors and plain values. The latest two are stored, so a damaged one costs only the steps
since the one before.
"""

import io
import os
import re
from pathlib import Path
from typing import Any

import torch

from cassle_zoo.common.errors import CheckpointError, ModelFolderError
from cassle_zoo.common.files import atomic_write, sha256
from cassle_zoo.records import CHECKPOINT_FILE, PREVIOUS_CHECKPOINT_FILE


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain Python values) as the folder's latest checkpoint.

    Raises:
        OSError: If it cannot be written (a full disk, say); earlier checkpoints are untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    latest = folder / CHECKPOINT_FILE
    with atomic_write(latest) as partial:
        with partial.open("wb") as file:
            file.write(sha256(content).encode() + b"\n")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before the latest one gives up its name
        if latest.exists():
            os.replace(latest, folder / PREVIOUS_CHECKPOINT_FILE)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str], Path | None]:
    """Read the latest checkpoint that is intact. No code in it is run.

    Returns:
        state: The saved state, on the CPU; `None` if the folder has no checkpoint at all.
        damaged: Names of damaged checkpoints that were skipped.
        path: The file of the state; `None` without one.

    Raises:
        ModelFolderError: If there are checkpoints, but all of them are damaged, or an intact one
            was not written by cassle-zoo.
    """
    damaged: list[str] = []
    for path in (folder / CHECKPOINT_FILE, folder / PREVIOUS_CHECKPOINT_FILE):
        if not path.exists():
            continue
        try:
            content = own_content(path)
        except CheckpointError:
            content = None
        if content is not None:
            return _unpack(content, path), damaged, path
        damaged.append(path.name)
    if damaged:
        raise ModelFolderError(
            f"all checkpoints in {str(folder)!r} are damaged ({', '.join(damaged)}); "
            "remove the folder to train from the start."
        )
    return None, damaged, None


def own_content(path: Path) -> bytes | None:
    """Return what follows the hash in a file of our trainer; `None` for a file of other code.

    Raises:
        CheckpointError: If the content does not have that hash.
    """
    with path.open("rb") as file:
        digest = re.fullmatch(rb"([0-9a-f]{64})\n", file.read(65))
        if digest is None:
            return None
        content = file.read()
    if sha256(content).encode() != digest[1]:
        raise CheckpointError(
            f"{path} is damaged: its content does not have the SHA-256 on its first line. Take "
            f"{PREVIOUS_CHECKPOINT_FILE} beside it, or continue the run, which writes the file "
            "again."
        )
    return content


def is_own_run(content: Any) -> bool:
    """Whether the content of a file is that of a checkpoint of our trainer."""
    return isinstance(content, dict) and {"method", "optimizer", "step"} <= content.keys()


def averaged(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's content with the average of the weights in place of the weights.

    Only runs with `optim.ema_decay` have one; the content of others is returned as it is.
    """
    method, average = content.get("method"), content.get("ema")
    if not (isinstance(method, dict) and isinstance(average, dict)):
        return content
    rest = {key: value for key, value in content.items() if key != "ema"}
    return {**rest, "method": {**method, **average}}


def _unpack(content: bytes, path: Path) -> dict[str, Any]:
    # Foreign content with the right hash may make torch raise anything. Its message is left out,
    # since it advises loading the file in a way that runs the code in it.
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:
        raise ModelFolderError(
            f"{str(path)!r} is not a checkpoint of a run: it holds more than tensors and plain "
            "values, or was not written by torch.save; nothing in it was run. Remove it, or use "
            "another --out."
        ) from None
    if not isinstance(state, dict):
        raise ModelFolderError(f"{str(path)!r} holds a {type(state).__name__}, not a checkpoint.")
    return state
