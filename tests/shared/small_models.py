"""Small networks with seeded weights."""

from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from cassle_zoo.features.extract import Extractor
from cassle_zoo.features.transform import eval_transform

_SMALL = {"input_size": (3, 32, 32), "crop_pct": 1.0}


def make_model(name: str = "test_resnet", **options: Any) -> nn.Module:
    """Return one of timm's test models, without classifier, for images of 32 pixels."""
    torch.manual_seed(0)
    return timm.create_model(
        name, **{"num_classes": 0, "pretrained_cfg_overlay": _SMALL, **options}
    )


def count_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the size of each batch that an extractor computes from now on."""
    sizes: list[int] = []
    compute = Extractor.compute

    def counting(self: Extractor, ready: Tensor) -> dict[str, Tensor]:
        sizes.append(len(ready))
        return compute(self, ready)

    monkeypatch.setattr(Extractor, "compute", counting)
    return sizes


def reference(model: nn.Module, images: list[Image.Image]) -> Tensor:
    """Return features computed in one plain batch."""
    transform = eval_transform(model)
    with torch.no_grad():
        features: Tensor = model(torch.stack([transform(image) for image in images]))
    return features
