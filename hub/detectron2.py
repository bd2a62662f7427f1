"""A ResNet-50 as the initial weights of Detectron2's R50-C4 detectors.

Detectron2's `DetectionCheckpointer` reads the file as `MODEL.WEIGHTS`: a `.pth` with the weights
under `model`. With `matching_heuristics` it matches each name to the end of a longer one, so
`res5.0.conv1.weight` becomes `roi_heads.res5.0.conv1.weight` in a C4 detector and
`backbone.res5.0.conv1.weight` in an FPN. The usual `.pkl` would also work, but the NumPy 1 that
Detectron2 often runs with cannot read arrays pickled by NumPy 2, and pickles run code.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cassle_zoo.checkpoints.backbones import difference, layers
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import atomic_write
from cassle_zoo.zoo.create import create_model
from cassle_zoo.zoo.width import without_weights

ENDING = ".pth"
_PIXEL_MAX = 255.0


def detectron2_name(name: str) -> str:
    """Return Detectron2's name of a weight of a torchvision-style ResNet.

    Args:
        name: Such as `layer1.0.downsample.1.bias`, which is `res2.0.shortcut.norm.bias`.
    """
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return name if name.startswith("res") else f"stem.{name}"


def detectron2_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a ResNet-50.

    Args:
        state: Under timm's names, without classifier.

    Returns:
        Float32 weights under Detectron2's names. BatchNorm's counters of batches, which
        Detectron2's frozen normalisation does not have, are left out.

    Raises:
        ConfigError: If it is not a ResNet-50.
    """
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    if difference(dict(state), without_weights("resnet50", {})):
        raise ConfigError(
            "Detectron2's R50-C4 takes a ResNet-50 like timm's resnet50; these "
            f"{len(state)} weights ({', '.join(names[:3])}, ...) are those of another network."
        )
    return {detectron2_name(name): state[name].detach().float().cpu() for name in names}


def export_detectron2(model: str, path: str | Path) -> Mapping[str, object]:
    """Write the file.

    Args:
        model: Name of a ResNet-50 with pretrained weights, or `local-dir:DIR`.
        path: File to write, ending in `.pth`; written whole or not at all. Its folder is created.

    Returns:
        The settings that Detectron2 needs to feed the network as it was trained, by name.

    Raises:
        ConfigError: If the model is not a plain ResNet-50, or `path` has another ending.
        UnknownNameError: If there is no such model.
        WeightsUnavailableError: If it has no published weights.
    """
    path = Path(path)
    if path.suffix != ENDING:
        raise ConfigError(
            f"{path.name} must end in {ENDING}: Detectron2 recognises formats by the ending."
        )
    network: Any = create_model(model, pretrained=True)
    weights = detectron2_state(network.state_dict())
    found, usual = layers(network), layers(without_weights("resnet50", {}))
    if found != usual:
        name, _ = min(found.items() ^ usual.items())
        raise ConfigError(
            f"{model} has the weights of a ResNet-50, but other layers: {name} is "
            f"{found.get(name, 'missing')}, expected {usual.get(name, 'none')}; Detectron2's "
            "R50-C4 would compute something else."
        )
    content = {"model": weights, "__author__": "cassle-zoo", "matching_heuristics": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial, partial.open("wb") as file:
        torch.save(content, file)
    return {
        "MODEL.WEIGHTS": path.name,
        "MODEL.PIXEL_MEAN": _pixels(network.pretrained_cfg["mean"]),
        "MODEL.PIXEL_STD": _pixels(network.pretrained_cfg["std"]),
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "INPUT.FORMAT": "RGB",
    }


def _pixels(values: Iterable[float]) -> list[float]:
    return [round(_PIXEL_MAX * value, 3) for value in values]
