"""Reads a run's checkpoints, which hold tensors and plain values, without running code in them.

A checkpoint is one file: the SHA-256 of its content on the first line, then the content. The latest
two are stored, so a damaged one costs only the steps since the one before.
"""

import io
from pathlib import Path
from typing import Any

import torch

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.common.files import sha256

LATEST = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the latest checkpoint that is intact. No code in it is run.

    Returns:
        state: The saved state, on the CPU; `None` if the folder has no checkpoint at all.
        damaged: Names of damaged checkpoints that were skipped.

    Raises:
        ModelFolderError: If there are checkpoints, but all of them are damaged, or an intact one
            was not written by cassle-zoo.
    """
    damaged: list[str] = []
    for path in (folder / LATEST, folder / PREVIOUS):
        if not path.exists():
            continue
        digest, _, content = path.read_bytes().partition(b"\n")
        if sha256(content).encode() != digest:
            damaged.append(path.name)
            continue
        return _unpack(content, path), damaged
    if damaged:
        raise ModelFolderError(
            f"all checkpoints in {str(folder)!r} are damaged ({', '.join(damaged)}); "
            "remove the folder to train from the start."
        )
    return None, damaged


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
