"""A model folder small enough to be pushed, pulled and verified in every test; its damage."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file

from cassle_zoo.hub.cards.card import render_card
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.specs import ModelSpec
from cassle_zoo.store.folder import MODEL_FILE
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.zoo.registry import make_config

TOY = ModelSpec(
    name="toy_cassle_simclr",
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
    recipe="toy_cassle_simclr.toys",
)


def save_toy(folder: Path, seed: int = 0) -> Path:
    """Write the model folder of a network of 1.5 MB, as `hub export` does."""
    torch.manual_seed(seed)
    backbone: Any = timm.create_model(TOY.timm_arch, num_classes=0)
    for _ in range(20):
        backbone(torch.rand(4, 3, 32, 32))  # running statistics as after training
    projector = ConditionedProjector(ProjectorConfig(in_features=96, encoder_depth=2))
    training = {"data": "toys", "data_license": "CC0-1.0", "cassle_zoo": "0.1.0", "commit": "abc"}
    config = make_config(TOY, backbone, projector=projector.config, training=training)
    return save_model_folder(
        folder,
        config=config,
        backbone_state=backbone.state_dict(),
        projector=projector,
        card=str(render_card(config)),
        finish=write_reference,
    )


def has_weights_of(model: torch.nn.Module, folder: Path) -> bool:
    """Whether a model has the weights of a model folder, and no others."""
    expected = load_file(folder / MODEL_FILE)
    state = model.state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[k], expected[k]) for k in state
    )


def flip_a_bit(path: Path) -> None:
    """Change the last byte of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
