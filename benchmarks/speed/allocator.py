"""Time that `cassle_zoo.accel.allocator` saves: `python -m benchmarks.speed.allocator`.

Each row runs in processes of its own, alternately with and without it, on one thread.
"""

import os
import subprocess
import sys
import time
from typing import Any

import timm
import torch

from benchmarks.machine import machine
from cassle_zoo.accel.allocator import keep_freed_memory

ROWS = (
    ("resnet50", 224, 32, "extract"),
    ("vit_small_patch16_224", 224, 32, "extract"),
    ("resnet18", 64, 256, "train"),
    ("tf_efficientnet_lite0", 96, 256, "train"),
)
TURNS, REPEATS = 3, 4


def seconds(arch: str, size: int, batch: int, work: str) -> float:
    """Return the shortest time of a forward pass, or of one with its backward pass, in fp32."""
    torch.set_num_threads(1)
    network: Any = timm.create_model(arch, num_classes=0)
    network = network.to(memory_format=torch.channels_last).train(work == "train")
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        with torch.set_grad_enabled(work == "train"):
            features = network(images)
        if work == "train":
            features.square().mean().backward()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print a table; given the arguments of a row, measure that row."""
    if len(sys.argv) > 1:
        kept, name, *numbers, task = sys.argv[1:]
        if kept == "kept" and not keep_freed_memory():
            sys.exit("the allocator is not glibc's, or is set by an environment variable.")
        side, images = map(int, numbers)
        print(seconds(name, side, images, task))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    print(machine())
    print(
        "| network | images/s | memory kept: images/s | times as fast |\n| --- | --- | --- | --- |"
    )
    for arch, size, batch, work in ROWS:
        best: dict[str, float] = {}
        for kept in ("freed", "kept") * TURNS:
            words = (sys.executable, "-m", "benchmarks.speed.allocator", kept, arch, str(size))
            command = [*words, str(batch), work]
            said = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            best[kept] = min(best.get(kept, float("inf")), float(said.stdout))
        freed, held = (batch / best[kept] for kept in ("freed", "kept"))
        print(f"| {arch}, {size} px, {work} | {freed:.1f} | {held:.1f} | {held / freed:.2f} |")


if __name__ == "__main__":
    main()
