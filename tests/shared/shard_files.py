"""Small WebDataset shards for tests."""

import json
from pathlib import Path
from typing import Any

from builders import encoded, make_image, write_tar

SHARDS, LENGTH = 4, 6
NAMES = [f"train-{shard:04d}.tar" for shard in range(SHARDS)]


def members(shard: int, labels: bool = True) -> dict[str, bytes]:
    """Return the files of a shard."""
    content = {}
    for number in range(shard * LENGTH, (shard + 1) * LENGTH):
        content[f"{number:03d}.png"] = encoded(make_image(number, (16, 16)))
        if labels:
            content[f"{number:03d}.cls"] = str(number % 3).encode()
    return content


def write_info(folder: Path, **split: Any) -> None:
    """Describe the split `train`."""
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": split}}))


def write_shards(folder: Path, labels: bool = True) -> None:
    """Write 4 shards of 6 images."""
    folder.mkdir()
    for shard, name in enumerate(NAMES):
        write_tar(folder / name, members(shard, labels))
    write_info(folder, filenames=NAMES, shard_lengths=[LENGTH] * SHARDS, num_samples=24)
