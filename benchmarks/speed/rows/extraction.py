"""Features of resnet50 at 224 px in batches of 32, beside timm's model as it is."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.config import resolve_model_data_config
from torch.nn.functional import cosine_similarity

from benchmarks.speed.timing import Check, Row, medians, take_turns, times_faster
from benchmarks.speed.workloads import jpeg_folder, photo
from cassle_zoo import create_model, eval_transform, extract_features

NAME, SIZE, BATCH, FILES = "resnet50_cassle_simclr", 224, 32, 64


def measure(rounds: int) -> Row:
    """Measure from tensors and from JPEG files, and compare the features."""
    # Trained weights: random ones give nearly the same features for every image.
    overlay = {"input_size": (3, SIZE, SIZE)}
    model = create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    transform = eval_transform(model)
    images = torch.stack([transform(photo(seed)) for seed in range(BATCH)])
    contestants: dict[str, Callable[[], Any]] = {
        "fp32": lambda: _ours(model, list(images), "fp32", "as_is"),
        "auto": lambda: _ours(model, list(images), "auto", "as_is"),
        "timm": lambda: _timm(model, images),
    }
    features = {name: run() for name, run in contestants.items()}
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(jpeg_folder(Path(folder), FILES).rglob("*.jpg"))
        contestants |= {
            "fp32 from JPEG": lambda: _ours(model, files, "fp32", None),
            "auto from JPEG": lambda: _ours(model, files, "auto", None),
            "timm from JPEG": lambda: _timm_files(model, files),
        }
        seconds = take_turns(contestants, rounds)
    difference = float((features["fp32"] - features["timm"]).abs().max())
    cosine = float(cosine_similarity(features["auto"], features["timm"]).min())

    def faster(name: str, peer: str, goal: float) -> Check:
        return Check(f"{name} / {peer}", times_faster(seconds, name, peer), at_least=goal)

    return Row(
        title="feature extraction, resnet50, 224 px, batch 32",
        amounts={
            name: (FILES if "JPEG" in name else BATCH) / median
            for name, median in medians(seconds).items()
        },
        unit="img/s",
        checks=[
            faster("fp32", "timm", 1.9),
            faster("auto", "timm", 4),
            faster("fp32 from JPEG", "timm from JPEG", 1.9),
            faster("auto from JPEG", "timm from JPEG", 4),
            Check("fp32: largest difference from timm", difference, at_most=1e-4),
            Check("auto: smallest cosine to timm", cosine, at_least=0.999),
        ],
        seconds=seconds,
    )


def _ours(model: Any, inputs: Any, precision: str, transform: Any) -> Any:
    return extract_features(
        model, inputs, batch_size=BATCH, precision=precision, transform=transform, device="cpu"
    ).features


def _timm(model: Any, images: Any) -> Any:
    with torch.inference_mode():
        return model(images)


def _timm_files(model: Any, files: list[Path]) -> Any:
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    transform = create_transform(**config)
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    return torch.cat(
        [
            _timm(model, torch.stack([transform(Image.open(file)) for file in batch]))
            for batch in batches
        ]
    )
