"""Outputs of a model for an image: pooled features, tokens, stages, projections; their types."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, UnknownNameError, unknown_name
from cassle_zoo.features.inference import as_input, check_pooled, pooled_features
from cassle_zoo.features.wrappers import Unwrapped
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.zoo.create import create_projector
from cassle_zoo.zoo.timm_names import TIMM_PREFIX

FORMS = ("pooled", "projected", "tokens", "stage:K", "stage:K:map")
"""All outputs; K counts the model's stages from 0, or from the end if negative."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_STAGE = re.compile(r"stage:(-?\d+)(:map)?")


@dataclass(frozen=True)
class Stage:
    """A stage's output.

    Attributes:
        index: Its number, from 0.
        spatial: Whether to return the map, not its mean.
    """

    index: int
    spatial: bool


def parse_outputs(names: Sequence[str], found: Unwrapped) -> dict[str, Stage | None]:
    """Check names of outputs.

    Args:
        names: Each one of :data:`FORMS`.
        found: The model.

    Returns:
        The stage of each name; `None` for other outputs.

    Raises:
        UnknownNameError: There is no such output.
        ConfigError: No name is given, or one twice, or the model has no such output.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"outputs must be one or more different names, got {names}.")
    parsed: dict[str, Stage | None] = {}
    for name in names:
        match = _STAGE.fullmatch(name)
        if match is None and name not in FORMS[:3]:
            raise unknown_name("output", name, FORMS)
        parsed[name] = (
            Stage(_stage_index(int(match[1]), found), match[2] is not None) if match else None
        )
    inside = [name for name in names if name not in ("pooled", "projected")]
    if inside and (found.model is None or not hasattr(found.model, "forward_intermediates")):
        raise ConfigError(
            f"{found.what} is no timm model with forward_intermediates, so it has no "
            f"{inside[0]!r}; its outputs are 'pooled' and, with a projector, 'projected'."
        )
    if inside and found.model is not found.network:
        raise ConfigError(
            f"{found.what} computes something around its {type(found.model).__name__}, so "
            f"{inside[0]!r} is ambiguous; give the model inside."
        )
    return parsed


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the type to store outputs in.

    Raises:
        UnknownNameError: It is neither float32 nor float16.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise unknown_name("dtype", name, _DTYPES)
    return _DTYPES[name]


def open_projector(name: str) -> ConditionedProjector:
    """Build the projector of a model of the zoo, with its weights.

    Raises:
        ConfigError: The model is one of timm, which have none.
        UnknownNameError: There is no such model or tag.
        ModelFolderError: The model has no projector.
        WeightsUnavailableError: The weights cannot be loaded.
    """
    try:
        return create_projector(name, pretrained=True)
    except UnknownNameError as error:
        if not timm.is_model(name.removeprefix(TIMM_PREFIX).removeprefix("timm/")):
            raise
        raise ConfigError(
            f"the output 'projected' needs a projector, and {name!r} is a model of timm, which has "
            "none: leave the output out, or pass projector=."
        ) from error


def compute_outputs(
    found: Unwrapped,
    images: Tensor,
    outputs: dict[str, Stage | None],
    projector: ConditionedProjector | None = None,
) -> dict[str, Tensor]:
    """Compute outputs in one pass; see :class:`cassle_zoo.Extractor` for their meaning.

    Args:
        found: The model, in evaluation mode.
        images: (B, C, H, W) on the model's device.
        outputs: From :func:`parse_outputs`.
        projector: For `projected`, on the same device and in evaluation mode.

    Returns:
        The outputs by name, float32 on the CPU.

    Raises:
        ConfigError: What the model returns has the wrong type or shape for an output.
    """
    images = as_input(found.network, images)
    values: dict[str, Tensor] = {}
    if outputs.keys() - {"pooled", "projected"}:
        pooled = _inside(found.model, images, outputs, values)
    else:
        pooled = pooled_features(found, images)
    if outputs.keys() & {"pooled", "projected"}:
        values["pooled"] = check_pooled(pooled)
    if projector is not None and "projected" in outputs:
        values["projected"] = project_unaugmented(projector, pooled)
    return {name: values[name].float().cpu() for name in outputs}


def cast_output(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Convert an output to a type.

    Raises:
        ConfigError: It has values beyond the type's range.
    """
    cast = value.to(dtype)
    if dtype == torch.float16 and (cast.isinf() & value.isfinite()).any():
        raise ConfigError(
            f"{name!r} has values of up to {float(value.abs().max()):g}, but float16 ends at "
            "65504: pass dtype='float32' (--dtype)."
        )
    return cast


def project_unaugmented(projector: ConditionedProjector, features: Tensor) -> Tensor:
    """Project features of images that were not augmented.

    Args:
        projector: In evaluation mode.
        features: (B, D) on its device.

    Returns:
        (B, K) in float32.
    """
    omega = unaugmented_omega(projector).to(features.device).expand(len(features), -1)
    with torch.autocast(features.device.type, enabled=False):
        projected: Tensor = projector(features.float(), omega)
    return projected


def unaugmented_omega(projector: ConditionedProjector) -> Tensor:
    """Return the omega of an image that was not augmented, (1, width): the crop is the whole."""
    layout = projector.layout
    omega = torch.zeros(1, layout.width)
    if "crop" in layout.names:
        omega[:, layout.slices()["crop"]] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    return omega


def _inside(
    model: Any, images: Tensor, outputs: dict[str, Stage | None], values: dict[str, Tensor]
) -> Any:
    """Add tokens and stages to values; return the pooled features if any output needs them."""
    stages = sorted({stage.index for stage in outputs.values() if stage is not None})
    if not stages:
        last = model.forward_features(images)
    else:
        last, maps = model.forward_intermediates(images, indices=stages, output_fmt="NCHW")
        by_stage = dict(zip(stages, maps, strict=True))
        for name, stage in outputs.items():
            if stage is not None:
                found = by_stage[stage.index]
                values[name] = found if stage.spatial else found.mean(dim=(2, 3))
    if "tokens" in outputs:
        values["tokens"] = _tokens(model, last)
    if outputs.keys() & {"pooled", "projected"}:
        return model.forward_head(last, pre_logits=True)
    return None


def _tokens(model: Any, last: Any) -> Tensor:
    if isinstance(last, Tensor) and last.ndim == 3:
        return last[:, int(getattr(model, "num_prefix_tokens", 0) or 0) :]
    if isinstance(last, Tensor) and last.ndim == 4:
        channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return last.permute(0, 3, 1, 2) if channels_last else last
    shape = tuple(last.shape) if isinstance(last, Tensor) else type(last).__name__
    raise ConfigError(
        f"{type(model).__name__}.forward_features returns {shape}; tokens (B, N, D) or a map "
        "(B, C, H, W) are needed for the output 'tokens'."
    )


def _stage_index(index: int, found: Unwrapped) -> int:
    info = getattr(found.model, "feature_info", None)
    count = len(info) if info is not None else 0
    if not -count <= index < count:
        stages = f"0 to {count - 1}" if count else "none"
        raise ConfigError(f"the model has no stage {index}; its stages are {stages}.")
    return index % count
