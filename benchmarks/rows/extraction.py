"""Features of resnet50 at 224 px in batches of 32, beside timm's model run as it is."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pictures import jpeg_folder
from benchmarks.row import Check, Row, speeds, take_turns, times_faster

BATCH, SIZE = 32, 224


def measure(rounds: int) -> Row:
    """Measure from tensors and from JPEG files, and compare the features."""
    import timm
    import torch
    from torch.nn.functional import cosine_similarity

    model = timm.create_model("resnet50", num_classes=0).eval()
    _settle(model)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    contestants: dict[str, Callable[[], Any]] = {
        "fp32": lambda: _ours(model, list(images), "fp32", "as_is"),
        "auto": lambda: _ours(model, list(images), "auto", "as_is"),
        "timm": lambda: _timm(model, images),
    }
    features = {name: run() for name, run in contestants.items()}
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(jpeg_folder(Path(folder), BATCH).rglob("*.jpg"))
        contestants |= {
            "fp32 from JPEG": lambda: _ours(model, files, "fp32", None),
            "auto from JPEG": lambda: _ours(model, files, "auto", None),
            "timm from JPEG": lambda: _timm_files(model, files),
        }
        turns = {name: _silent(run) for name, run in contestants.items()}
        seconds = take_turns(turns, rounds)
    difference = float((features["fp32"] - features["timm"]).abs().max())
    cosine = float(cosine_similarity(features["auto"], features["timm"]).min())

    def faster(name: str, peer: str, goal: float) -> Check:
        return Check(
            name=f"{name} / {peer}", value=times_faster(seconds, name, peer), at_least=goal
        )

    return Row(
        title="feature extraction, resnet50, 224 px, batch 32",
        amounts=speeds(seconds, BATCH),
        unit="img/s",
        checks=[
            faster("fp32", "timm", 1.9),
            faster("auto", "timm", 4),
            faster("fp32 from JPEG", "timm from JPEG", 1.9),
            faster("auto from JPEG", "timm from JPEG", 4),
            Check(name="fp32: largest difference from timm", value=difference, at_most=1e-4),
            Check(name="auto: smallest cosine to timm", value=cosine, at_least=0.999),
        ],
        seconds=seconds,
    )


def _silent(run: Callable[[], Any]) -> Callable[[], None]:
    def turn() -> None:
        run()

    return turn


def _settle(model: Any) -> None:
    """Give the BatchNorms statistics as after training, so that features are of usual size."""
    import torch

    generator = torch.Generator().manual_seed(0)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.uniform_(module.weight, 0.3, 0.7, generator=generator)
    with torch.no_grad():
        model(torch.randn(8, 3, SIZE, SIZE, generator=generator))
    model.eval()


def _ours(model: Any, inputs: Any, precision: str, transform: Any) -> Any:
    from cassle_zoo import extract_features

    return extract_features(
        model, inputs, batch_size=BATCH, precision=precision, transform=transform, device="cpu"
    ).features


def _timm(model: Any, images: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(images)


def _timm_files(model: Any, files: list[Path]) -> Any:
    import torch
    from PIL import Image
    from timm.data import create_transform
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    transform = create_transform(**config)
    return _timm(model, torch.stack([transform(Image.open(file)) for file in files]))
