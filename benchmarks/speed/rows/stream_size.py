"""Start-up time and memory against the size of a WebDataset, from its index to the first batch.

All shards of the index are links to one small file, since no more than a few of them are read.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.speed.timing import Check, Row
from benchmarks.speed.workloads import config, photo
from cassle_zoo.common.devices import peak_bytes
from cassle_zoo.train.config import DataConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
SHARD = 1000


def measure(rounds: int) -> Row:
    """Measure each size in its own processes."""
    del rounds  # every process pays for the imports, and the numbers hardly vary
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write_index(Path(folder), size)
            command = [sys.executable, "-m", "benchmarks.speed.rows.stream_size", folder]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                for _ in range(2)
            ]
        name = f"{size:,} samples"
        seconds[name] = [run["seconds"] for run in runs]
        memory[name] = min(run["mebibytes"] for run in runs)
    fastest = {name: min(values) for name, values in seconds.items()}
    small, *_, large = fastest
    more_seconds, more_memory = fastest[large] - fastest[small], memory[large] - memory[small]
    return Row(
        title="start of training on a WebDataset: index to first batch",
        amounts=fastest,
        checks=[
            Check("1,000 times the data: more seconds", more_seconds, at_most=1),
            Check("1,000 times the data: more MiB", more_memory, at_most=50),
        ],
        seconds=seconds,
    )


def write_index(folder: Path, size: int) -> None:
    """Write an index of `size` samples in shards of `SHARD`."""
    first = folder / "0.tar"
    image, label = folder / "image.jpg", folder / "label.cls"
    label.write_text("0", encoding="utf-8")
    photo(0).resize((96, 96)).save(image)
    with tarfile.open(first, "w") as tar:
        for index in range(SHARD):
            tar.add(image, f"{index:06d}.jpg")
            tar.add(label, f"{index:06d}.cls")
    names = [f"{shard}.tar" for shard in range(size // SHARD)]
    for name in names[1:]:
        (folder / name).symlink_to(first)
    split = {
        "name": "train",
        "num_samples": size,
        "filenames": names,
        "shard_lengths": [SHARD] * len(names),
    }
    info = json.dumps({"splits": {"train": split}})
    (folder / "_info.json").write_text(info, encoding="utf-8")


def first_batch(folder: str) -> dict[str, float]:
    """Open the data in `folder` and wait for the first batch."""
    data = DataConfig(root=folder, dataset="wds/bench", workers=0)
    run = config(data=data)
    open_dataset(data)  # imports do not count
    start = time.perf_counter()
    next(batches(run, open_dataset(data), 0, 10**5))
    elapsed = time.perf_counter() - start
    peak = peak_bytes(torch.device("cpu")) / 2**20
    return {"seconds": elapsed, "mebibytes": peak}


if __name__ == "__main__":
    print(json.dumps(first_batch(sys.argv[1])))
