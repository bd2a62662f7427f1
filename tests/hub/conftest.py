"""Checkpoints as the paper's code writes them, and a tiny model folder, with random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cassle_zoo.artifact import make_config, save_artifact
from cassle_zoo.hub.card import render_card
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.specs import ModelSpec

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


@pytest.fixture
def official_case() -> Callable[[str], dict[str, Any]]:
    """Return the checkpoint of a case of the golden key list."""

    def make(case: str) -> dict[str, Any]:
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

    return make


@pytest.fixture
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Return a function that randomises normalisations, so that they hide no branch."""

    def randomise(module: nn.Module) -> nn.Module:
        for name, value in module.state_dict().items():
            if value.ndim == 1 and value.is_floating_point():
                shift = 1.0 if name.endswith(("weight", "running_var")) else 0.0
                value.copy_(shift + 0.3 * (torch.rand(value.shape) - 0.5))
        return module.eval()

    return randomise


TINY = ModelSpec(
    name="tiny_cassle_simclr",
    tag="toys",
    arch="test_resnet",
    timm_arch="test_resnet",
    method="simclr",
    conditioned=True,
    input_size=(3, 32, 32),
    mean=(0.5, 0.4, 0.3),
    std=(0.3, 0.4, 0.5),
    num_features=96,
    data="toys",
    recipe="tiny_cassle_simclr.toys",
)


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """Write the model folder of a network of 1.5 MB, as `hub export` does."""
    torch.manual_seed(seed)
    backbone: Any = timm.create_model(TINY.timm_arch, num_classes=0)
    for _ in range(20):
        backbone(torch.rand(4, 3, 32, 32))  # running statistics as after training
    projector = ConditionedProjector(ProjectorConfig(in_features=96, encoder_depth=2))
    training = {"data": "toys", "data_license": "CC0-1.0", "cassle_zoo": "0.1.0", "commit": "abc"}
    config = make_config(TINY, backbone, projector=projector.config, training=training)
    return save_artifact(
        folder,
        config=config,
        backbone_state=backbone.state_dict(),
        projector=projector,
        card=str(render_card(config)),
        finish=write_reference,
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder that tests must not change."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")
