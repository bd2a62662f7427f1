"""Checkpoints of the paper's code (gmum/CASSLE): how they are recognised, and their SSL method.

They hold `backbone`, `projector`, for some methods `predictor`, for AugSelf `ss_predictor`, and the
state of the optimisers.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cassle_zoo.checkpoints.projectors import GENERATED, Notes, check_stated, has_papers_names
from cassle_zoo.common.errors import CheckpointError
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.zoo.names import parse_name


def is_official(checkpoint: Any) -> bool:
    """Whether the content of a file is a checkpoint of the paper's code.

    Other loops may save a backbone and a projector under the same two names.
    """
    return (
        isinstance(checkpoint, dict)
        and all(_is_state(checkpoint.get(part)) for part in ("backbone", "projector"))
        and has_papers_names(checkpoint["projector"])
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def choose_method(
    config: ProjectorConfig,
    *,
    has_predictor: bool,
    option: str | None,
    args: Mapping[str, Any],
    name: str,
) -> tuple[str, Notes]:
    """Decide on the method by the tensors, and by option, args.json, or the model's name.

    Args:
        config: The projector.
        has_predictor: Whether the checkpoint has a predictor. MoCo-v3's was never saved.
        option: `--method`.
        args: Content of args.json.
        name: Name given to the model; counts if it ends with a method, before its tag.

    Returns:
        The method, or "A or B" where nothing decides; and the assumptions.

    Raises:
        CheckpointError: If one of these contradicts the tensors.
    """
    possible = _possible_methods(config, has_predictor)
    framework = args.get("framework")
    in_args = framework if isinstance(framework, str) else None
    sources = {
        "--method": option,
        "args.json": "mocov2" if in_args == "moco" else in_args,
        f"the name {name}": parse_name(name).method,
    }
    stated = check_stated("method", sources, possible)
    if stated is not None:
        return stated, ()
    if not possible:
        raise CheckpointError("no method has such a projector; give --method.")
    method = " or ".join(possible)
    if len(possible) > 1:
        return method, (f"{method}, whose weights look the same (--method says which)",)
    return method, ()


def _possible_methods(config: ProjectorConfig, has_predictor: bool) -> tuple[str, ...]:
    """Return the methods whose projector and predictor have this form; empty if none has.

    SimCLR and MoCo-v2 cannot be told apart.
    """
    if config.conditioning.startswith("hypernet"):  # which leaves out the last BatchNorm
        return GENERATED[config.depth, config.out_features]
    if has_predictor:
        return ("simsiam",) if config.last_bn else ("byol",)
    if not config.last_bn:
        return ("simclr", "mocov2")
    if config.last_bn_affine:
        return ()
    # Both have three layers and end in BatchNorm; only MoCo-v3's narrows.
    return ("barlow_twins",) if config.out_features == config.hidden else ("mocov3",)
