"""Profile: processor time of each stage of a training step and of extraction.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.stages [--rounds 5]

Milliseconds per image, medians. Processor time, so that a busy machine changes little.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.timing import medians, take_turns
from benchmarks.speed.workloads import BATCH, config, jpeg_folder, photographs, with_precision
from cassle_zoo import create_model, eval_transform
from cassle_zoo.accel.fused import fuse_for_inference
from cassle_zoo.common.images import open_image
from cassle_zoo.features.inference import embed, inference
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import Crops, MapViews, batches
from cassle_zoo.train.data.views import make_views
from cassle_zoo.train.trainer import Trainer

Stages = Mapping[str, Callable[[], Any]]


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description="Processor time of each stage.")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; default: 5")
    rounds = parser.parse_args().rounds
    print("training, resnet18, 96 px, batch 64, two views")
    with photographs() as folder:
        for precision in ("fp32", "bf16"):
            show(precision, training(folder, precision), BATCH, rounds)
    print("extraction, resnet50, 224 px, batch 32")
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(jpeg_folder(Path(folder), 32).rglob("*.jpg"))
        for precision in ("fp32", "bf16"):
            show(precision, extraction(files, precision), len(files), rounds)


def show(title: str, stages: Stages, decoded: int, rounds: int) -> None:
    """Measure stages in turns and print a line for each."""

    def timed(stage: Callable[[], Any]) -> float:
        start = time.process_time()
        stage()
        return time.process_time() - start

    seconds = take_turns({name: partial(timed, stage) for name, stage in stages.items()}, rounds)
    for name, median in medians(seconds).items():
        print(f"  {title}  {name:32} {1000 * median / decoded:7.2f} ms")


def training(folder: str, precision: str) -> Stages:
    """Return the stages of a training step on a batch of a folder."""
    run = with_precision(config(folder), precision)
    dataset = open_dataset(run.data)
    (batch,) = batches(run, dataset, 0, 1)
    crops = MapViews(dataset, Crops(run.augment, 0))
    trainer = Trainer(run, per_epoch=100)
    method = trainer.method

    def views() -> Any:
        return make_views(
            batch, run.augment, method.projector.layout, trainer.device, torch.channels_last
        )

    made = views()
    features = torch.randn(BATCH, 512)

    def backbone() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            first, second = (method.backbone(view) for view in made.images)
        (first.mean() + second.mean()).backward()

    def objective() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = method.objective((features, features), made)
        loss.backward()

    return {
        "decode and crop (workers)": lambda: [crops[0, index] for index in range(BATCH)],
        "augment": views,
        "backbone, forward and backward": backbone,
        "projector and loss, likewise": objective,
        "optimiser": trainer.optimizer.step,
        "whole step without decoding": lambda: trainer.train_step(batch, 10**6),
    }


def extraction(files: list[Path], precision: str) -> Stages:
    """Return the stages of extracting features from files."""
    overlay = {"input_size": (3, 224, 224)}
    name = "resnet50_cassle_simclr"
    model = create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    transform, cpu = eval_transform(model), torch.device("cpu")
    decoded = [open_image(file) for file in files]
    images = torch.stack([transform(image) for image in decoded])
    fused = fuse_for_inference(model, cpu, precision)

    def run(network: Any) -> None:
        with inference(network, cpu, precision):
            embed(network, images)

    return {
        "decode": lambda: [open_image(file) for file in files],
        "resize, crop, normalise": lambda: [transform(image) for image in decoded],
        "fold BatchNorms (once per call)": lambda: fuse_for_inference(model, cpu, precision),
        "network": lambda: run(fused),
        "network, not fused": lambda: run(model),
    }


if __name__ == "__main__":
    main()
