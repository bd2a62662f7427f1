"""Speed-up of training with images of 64 pixels by matrix products instead of torch's kernels.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.small_images [--rounds 5]

Prints how many times faster whole training steps on a CPU are with the convolutions, and
with the attention, of `cassle_zoo/accel/small_images.py` than without: medians over rounds in which
both take turns.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from benchmarks.speed.timing import take_turns, times_faster
from benchmarks.speed.workloads import BATCH, config, random_batch, training_step, with_precision
from cassle_zoo.augmentation.augment import AugmentConfig

SIZE = 64
CHOICES = (  # network, precision, and what makes it faster
    ("resnet18", "bf16", "small_convolutions_as_products"),
    ("resnet18", "fp32", "small_convolutions_as_products"),
    ("resnet50", "bf16", "small_convolutions_as_products"),
    ("resnet50", "fp32", "small_convolutions_as_products"),
    ("vit_small_patch16_224", "bf16", "small_attention_as_products"),
)


def main() -> None:
    """Measure and print a line for each."""
    parser = argparse.ArgumentParser(description="Training steps with and without products.")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; default: 5")
    rounds = parser.parse_args().rounds
    for arch, precision, choice in CHOICES:
        contestants = {"with": _step(arch, precision), "without": _step(arch, precision, choice)}
        ratio = times_faster(take_turns(contestants, rounds), "with", "without")
        print(f"{arch:22} {precision}  {choice:22} {ratio:5.2f} times faster", flush=True)


def _step(arch: str, precision: str, without: str = "") -> Callable[[], Any]:
    """Return a step of SimCLR, with `without` disabled."""
    run = dataclasses.replace(config(augment=AugmentConfig(size=SIZE)), arch=arch)
    step = training_step(with_precision(run, precision), random_batch(BATCH, SIZE))
    if not without:
        return step
    name = f"cassle_zoo.train.trainer.{without}"
    return patch(name, lambda *_: contextlib.nullcontext())(step)


if __name__ == "__main__":
    main()
