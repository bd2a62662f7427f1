"""The parts of a small model folder."""

import dataclasses
from typing import Any

from torch import nn

from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.zoo.registry import make_config

SPEC = dataclasses.replace(MODEL_SPECS["resnet18_cassle_simclr.emoji64"], num_features=16)


class TinyBackbone(nn.Module):
    """A convolution with batch normalisation."""

    num_features = 16
    global_pool = "avg"

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)


def tiny_contents() -> dict[str, Any]:
    """Return what `save_model_folder` writes, by the names of its arguments."""
    backbone = TinyBackbone()
    projector = ConditionedProjector(
        ProjectorConfig(in_features=16, out_features=4, encoder_depth=2)
    )
    training = {"recipe": SPEC.recipe, "epochs": 3}
    return {
        "config": make_config(SPEC, backbone, projector=projector.config, training=training),
        "backbone_state": backbone.state_dict(),
        "projector": projector,
    }
