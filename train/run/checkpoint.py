"""Checkpoints that survive being interrupted; their format is in `store.run_checkpoint`."""

import io
import os
from pathlib import Path
from typing import Any

import torch

from cassle_zoo.common.files import atomic_write, sha256
from cassle_zoo.store.run_checkpoint import LATEST, PREVIOUS, load_checkpoint

__all__ = ["LATEST", "PREVIOUS", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain Python values) as the folder's latest checkpoint.

    Raises:
        OSError: If it cannot be written (a full disk, say); earlier checkpoints are untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    latest = folder / LATEST
    with atomic_write(latest) as partial:
        with partial.open("wb") as file:
            file.write(sha256(content).encode() + b"\n")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before the latest one gives up its name
        if latest.exists():
            os.replace(latest, folder / PREVIOUS)
