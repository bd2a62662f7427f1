"""Weights of lukemelas/EfficientNet-PyTorch, and of code like it, under timm's names.

That code numbers the blocks of the whole network, timm those of each stage. Both have the same
tensors. The layers pad as TensorFlow's, so the weights fit timm's `tf_` models.
"""

import re
from collections.abc import Iterable

from torch import Tensor, nn

SIGNATURE = ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight")
"""Weights that every such network has."""

_BLOCK = re.compile(r"_blocks\.(\d+)\.(.+)")
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_OUTSIDE |= {"_fc": "classifier"}
# In the first stage, where nothing is expanded, and in the others.
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
_SEPARABLE |= {"_bn2": "bn2"}
_INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_INVERTED |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
_ATTENTION = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


def candidates(names: Iterable[str]) -> tuple[str, ...]:
    """Return the timm models that weights may fit; shapes tell these apart."""
    if any("._se_reduce." in name for name in names):
        return tuple(f"tf_efficientnet_b{n}" for n in range(9))
    return tuple(f"tf_efficientnet_lite{n}" for n in range(5))


def timm_names(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename weights; those of blocks that `model` does not have keep their names.

    Args:
        state: The weights.
        model: timm's EfficientNet, which says how many blocks each stage has.
    """
    keys = model.state_dict()
    places = dict.fromkeys(".".join(k.split(".")[:3]) for k in keys if k.startswith("blocks."))
    blocks = dict(enumerate(places))
    renamed = {}
    for key, value in state.items():
        match = _BLOCK.fullmatch(key)
        if match and (block := blocks.get(int(match[1]))):
            inverted = f"_blocks.{match[1]}._expand_conv.weight" in state
            layer, _, rest = match[2].partition(".")
            layers = (_INVERTED if inverted else _SEPARABLE) | _ATTENTION
            renamed[f"{block}.{layers.get(layer, layer)}.{rest}"] = value
        elif match:
            renamed[key] = value
        else:
            layer, _, rest = key.partition(".")
            renamed[f"{_OUTSIDE.get(layer, layer)}.{rest}"] = value
    return renamed
