"""What a finished run leaves behind, without running it."""

import functools
import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save

from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.records import FORMAT_VERSION

NAME = "resnet18_cassle_simclr.emoji64"


PROJECTOR = ProjectorConfig(in_features=512)


@functools.cache
def _weights() -> dict[str, bytes]:
    backbone = timm.create_model("resnet18", num_classes=0)
    backbone(torch.rand(4, 3, 64, 64))  # running statistics as after training
    networks = {"backbone": backbone, "projector": ConditionedProjector(PROJECTOR)}
    return {f"{name}.safetensors": save(own.state_dict()) for name, own in networks.items()}


def write_run(folder: Path, **changes: Any) -> Path:
    """Write what a finished run leaves, always with the same weights."""
    final = folder / "final"
    final.mkdir(parents=True)
    for name, content in _weights().items():
        (final / name).write_bytes(content)
    info = {
        "format_version": FORMAT_VERSION,
        "name": NAME,
        "method": "simclr",
        "timm_arch": "resnet18",
        "projector": PROJECTOR.to_dict(),
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "input_size": [3, 64, 64],
        "training": {"steps": 10, "commit": "abc", "config": {"optim": {"epochs": 2}}},
    }
    (final / "export.json").write_text(json.dumps({**info, **changes}))
    return folder
