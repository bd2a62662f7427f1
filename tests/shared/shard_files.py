"""Small WebDataset shards for tests."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARDS, LENGTH = 4, 6
NAMES = [f"train-{shard:04d}.tar" for shard in range(SHARDS)]


def make_image(number: int) -> bytes:
    """Return a PNG that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def members(shard: int, labels: bool = True) -> dict[str, bytes]:
    """Return the files of a shard."""
    content = {}
    for number in range(shard * LENGTH, (shard + 1) * LENGTH):
        content[f"{number:03d}.png"] = make_image(number)
        if labels:
            content[f"{number:03d}.cls"] = str(number % 3).encode()
    return content


def write_tar(path: Path, content: dict[str, bytes]) -> None:
    """Write a tar file."""
    with tarfile.open(path, "w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_info(folder: Path, **split: Any) -> None:
    """Describe the split `train`."""
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": split}}))


def write_shards(folder: Path, labels: bool = True) -> None:
    """Write 4 shards of 6 images."""
    folder.mkdir()
    for shard, name in enumerate(NAMES):
        write_tar(folder / name, members(shard, labels))
    write_info(folder, filenames=NAMES, shard_lengths=[LENGTH] * SHARDS, num_samples=24)
