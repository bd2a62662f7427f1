"""Weights and checkpoints as the paper's code writes them."""

import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = json.loads((GOLDEN / "e_checkpoint_shapes.json").read_text())


def tensors(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """One number stands for a whole tensor, so that big layers make small files."""
    return {
        key: torch.zeros((), dtype=torch.int64)
        if key.endswith("num_batches_tracked")
        else torch.rand(()).expand(shape)
        for key, shape in shapes.items()
    }


def official_checkpoint(case: str) -> dict[str, Any]:
    """Return the checkpoint of a case of the golden key list."""
    entry = SHAPES["cases"][case]
    checkpoint: dict[str, Any] = {
        "backbone": tensors(SHAPES["backbones"][entry["backbone"]]),
        "projector": tensors(entry["projector"]),
    }
    if "predictor" in entry:
        checkpoint["predictor"] = tensors(entry["predictor"])
    if "ss_predictor" in entry:
        heads = entry["ss_predictor"].items()
        checkpoint["ss_predictor"] = {name: tensors(shapes) for name, shapes in heads}
    rest = {key: entry[key] for key in ("optimizers", "schedulers", "trainer")}
    return {**checkpoint, **rest}


def randomise(module: nn.Module) -> nn.Module:
    """Randomise normalisations, so that they hide no branch."""
    for name, value in module.state_dict().items():
        if value.ndim == 1 and value.is_floating_point():
            shift = 1.0 if name.endswith(("weight", "running_var")) else 0.0
            value.copy_(shift + 0.3 * (torch.rand(value.shape) - 0.5))
    return module.eval()


def resnet18() -> nn.Module:
    """Return torchvision's network without its classifier."""
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    return randomise(model)


def prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state under other names, as it is inside another module."""
    return {f"{prefix}{key}": value for key, value in module.state_dict().items()}
