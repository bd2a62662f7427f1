"""What a finished run leaves behind, without running it."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.records import FORMAT_VERSION

NAME = "resnet18_cassle_simclr.emoji64"


def write_run(folder: Path, **changes: Any) -> Path:
    """Write what a finished run leaves."""
    final = folder / "final"
    final.mkdir(parents=True)
    backbone = timm.create_model("resnet18", num_classes=0)
    backbone(torch.rand(4, 3, 64, 64))  # running statistics as after training
    projector = ConditionedProjector(ProjectorConfig(in_features=512))
    save_file(backbone.state_dict(), final / "backbone.safetensors")
    save_file(projector.state_dict(), final / "projector.safetensors")
    info = {
        "format_version": FORMAT_VERSION,
        "name": NAME,
        "method": "simclr",
        "timm_arch": "resnet18",
        "projector": projector.config.to_dict(),
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "input_size": [3, 64, 64],
        "training": {"steps": 10, "commit": "abc", "config": {"optim": {"epochs": 2}}},
    }
    (final / "export.json").write_text(json.dumps({**info, **changes}))
    return folder
