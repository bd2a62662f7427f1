"""Checkpoints of the paper's code (gmum/CASSLE): their projector, and their SSL method.

They hold `backbone`, `projector`, for some methods `predictor`, for AugSelf `ss_predictor`, and the
state of the optimisers. The projector's configuration follows from its tensors, except for a few
cases that only `args.json`, the name or an option can decide.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from cassle_zoo.augmentation.descriptors import (
    DESCRIPTOR_WIDTHS,
    PAPER_DESCRIPTORS,
    DescriptorLayout,
)
from cassle_zoo.common.errors import CheckpointError, ConfigError
from cassle_zoo.hub.convert.backbones import State, difference
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.specs import BACKBONES, PROJECTORS

Notes = tuple[str, ...]
"""Assumptions, in sentences."""

# Parts of the projector under their names, and ours.
_PARTS = {
    "aug_processor.": "encoder.",
    "projector_hn.": "encoder.",
    "projector_bns.": "norms.",
    "projector.": "layers.",
}
# (depth, out_features) of the methods' projectors: all that a hypernetwork's output can be.
_GENERATED = {
    (2, 128): ("simclr", "mocov2"),
    (2, 256): ("byol",),
    (3, 256): ("mocov3",),
    (3, 8192): ("barlow_twins",),
    (2, 2048): ("simsiam",),
    (3, 2048): ("simsiam",),
}


def is_official(checkpoint: Any) -> bool:
    """Whether the content of a file is a checkpoint of the paper's code."""
    return isinstance(checkpoint, dict) and all(
        _is_state(checkpoint.get(part)) for part in ("backbone", "projector")
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def read_projector(
    state: State,
    in_features: int,
    *,
    conditioning: str | None = None,
    descriptors: Sequence[str] | None = None,
    args: Mapping[str, Any] | None = None,
) -> tuple[ConditionedProjector, Notes]:
    """Identify a projector by its tensors.

    Args:
        state: `checkpoint["projector"]`.
        in_features: Width of the backbone's features.
        conditioning: Conditioning, where the tensors leave a choice.
        descriptors: Names of the descriptors, where their number leaves a choice.
        args: Content of args.json, if there is one.

    Returns:
        The projector with these weights in float32, and the assumptions.

    Raises:
        CheckpointError: If the tensors are not understood, leave a choice that nothing decides, or
            contradict `args` or the options.
    """
    args = args or {}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    unknown = [key for key in state if not key.startswith(tuple(_PARTS))]
    if unknown:
        raise CheckpointError(f"the projector has unknown parts: {', '.join(unknown[:5])}.")
    shape, possible = _shape(state, in_features)
    width = shape.pop("omega", 0)
    chosen = _choose_conditioning(possible, conditioning, args)
    names, notes = ((), ()) if chosen == "none" else _choose_descriptors(width, descriptors, args)
    try:
        with torch.device("meta"):
            projector = ConditionedProjector(
                ProjectorConfig(
                    in_features=in_features, conditioning=chosen, descriptors=names, **shape
                )
            )
    except ConfigError as error:
        raise CheckpointError(f"the projector: {error}") from error
    renamed = {_our_name(key): value for key, value in state.items()}
    if wrong := difference(renamed, projector):
        raise CheckpointError(f"the projector's tensors do not agree with each other ({wrong}).")
    projector.load_state_dict(renamed, assign=True)
    return projector.float(), notes


def _our_name(key: str) -> str:
    part = next(part for part in _PARTS if key.startswith(part))
    return _PARTS[part] + key.removeprefix(part)


def _linears(state: State, prefix: str) -> list[tuple[int, int]]:
    """Return the (in, out) widths of the Linear layers under a prefix, in order."""
    matrices = {
        int(key.split(".")[1]): value
        for key, value in state.items()
        if key.startswith(prefix) and key.endswith(".weight") and value.ndim == 2
    }
    return [(w.shape[1], w.shape[0]) for _, w in sorted(matrices.items())]


def _shape(state: State, in_features: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return fields of ProjectorConfig, the width `omega`, and the possible conditionings."""
    fields: dict[str, Any] = {}
    encoder = _linears(state, "aug_processor.") or _linears(state, "projector_hn.")
    if encoder:
        fields |= {
            "omega": encoder[0][0],
            "encoder_depth": len(encoder),
            "encoder_width": encoder[0][1] if len(encoder) > 1 else 64,
        }
    layers = _linears(state, "projector.")
    if any(key.startswith("projector_hn.") for key in state) and not layers:
        norms = {key.split(".")[1] for key in state if key.startswith("projector_bns.")}
        shape = _generated_shape(encoder[-1][1], in_features, len(norms) + 1 if norms else None)
        return fields | shape, ("hypernet_bn" if norms else "hypernet",)
    if not layers:
        raise CheckpointError("the projector has no layers.")
    last = f"projector.{3 * (len(layers) - 1) + 1}."
    fields |= {
        "depth": len(layers),
        "out_features": layers[-1][1],
        "last_bn": f"{last}running_mean" in state,
    }
    if fields["last_bn"]:
        fields["last_bn_affine"] = f"{last}weight" in state
    if len(layers) > 1 and layers[0][1] != in_features:
        fields["hidden_features"] = layers[0][1]
    extra = layers[0][0] - in_features
    if encoder and extra == encoder[-1][1]:
        return fields | {"encoder_width": extra}, ("cat",)
    if encoder and extra == 0 and encoder[-1][1] == in_features:
        return fields, ("add", "mul")
    if not encoder and extra == 0:
        return fields | {"omega": in_features}, ("none", "raw_add", "raw_mul")
    if not encoder and 0 < extra <= sum(DESCRIPTOR_WIDTHS.values()):
        return fields | {"omega": extra}, ("raw_cat",)
    raise CheckpointError(
        f"the projector takes {layers[0][0]} numbers, but the backbone has {in_features} features"
        + (f" and the augmentation encoder gives {encoder[-1][1]}." if encoder else ".")
    )


def _generated_shape(weights: int, in_features: int, depth: int | None) -> dict[str, Any]:
    """Find the shape of a generated projector: all hidden layers have the features' width."""
    for candidate, out in _GENERATED:
        generated = (in_features + 1) * ((candidate - 1) * in_features + out)
        if weights == generated and depth in (None, candidate):
            return {"depth": candidate, "out_features": out}
    raise CheckpointError(
        f"the hypernetwork generates {weights} weights, which no method's projector has on "
        f"{in_features} features."
    )


def _stated(what: str, sources: Mapping[str, str | None], possible: tuple[str, ...]) -> str | None:
    """Return the value of the first source that has one; none may contradict the tensors."""
    for source, value in sources.items():
        if value is not None and possible and value not in possible:
            raise CheckpointError(
                f"{source} says {what} {value!r}, but the tensors are those of "
                f"{' or '.join(possible)}."
            )
    return next((value for value in sources.values() if value is not None), None)


def _choose_conditioning(
    possible: tuple[str, ...], option: str | None, args: Mapping[str, Any]
) -> str:
    treatment, injection = args.get("aug_treatment"), args.get("aug_inj_type")
    in_args = None
    if treatment == "hn" and isinstance(injection, str):
        in_args = "hypernet_bn" if args.get("aug_hn_type") == "mlp-bn" else "hypernet"
    elif isinstance(treatment, str) and isinstance(injection, str):
        mode = injection.removeprefix("proj-")
        in_args = mode if treatment == "mlp" or mode == "none" else f"{treatment}_{mode}"
    stated = _stated("conditioning", {"--conditioning": option, "args.json": in_args}, possible)
    if stated is None and possible == ("add", "mul"):
        raise CheckpointError(
            "the projector adds or multiplies the encoded augmentation, and the tensors of both "
            "are the same; give --conditioning add or --conditioning mul, or put args.json beside "
            "the file."
        )
    return stated or possible[0]


def _choose_descriptors(
    width: int, option: Sequence[str] | None, args: Mapping[str, Any]
) -> tuple[tuple[str, ...], Notes]:
    for names, source in ((option, "--descriptors"), (args.get("aug_cond"), "args.json")):
        if not names:
            continue
        layout = DescriptorLayout(tuple(names))
        if layout.width != width:
            raise CheckpointError(
                f"{source} says descriptors {', '.join(layout.names)}, which are {layout.width} "
                f"numbers, but the projector takes {width}."
            )
        return layout.names, ()
    fitting = [
        names
        for count in range(1, len(DESCRIPTOR_WIDTHS) + 1)
        for names in combinations(sorted(DESCRIPTOR_WIDTHS), count)
        if DescriptorLayout(names).width == width
    ]
    if len(fitting) == 1:
        return fitting[0], ()
    if PAPER_DESCRIPTORS in fitting:
        return PAPER_DESCRIPTORS, (
            f"the {width} numbers of omega are the paper's {', '.join(PAPER_DESCRIPTORS)} (else "
            "give --descriptors)",
        )
    if not fitting:
        raise CheckpointError(f"no set of descriptors has {width} numbers.")
    shown = "; ".join(" ".join(names) for names in fitting[:6])
    raise CheckpointError(
        f"several sets of descriptors have {width} numbers ({shown}); choose one with "
        "--descriptors, or put args.json beside the file."
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
        name: Name given to the model; counts if it is of the form `ARCH_METHOD`.

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
        f"the name {name}": method_in_name(name),
    }
    stated = _stated("method", sources, possible)
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
        return _GENERATED[config.depth, config.out_features]
    if has_predictor:
        return ("simsiam",) if config.last_bn else ("byol",)
    if not config.last_bn:
        return ("simclr", "mocov2")
    if config.last_bn_affine:
        return ()
    # Both have three layers and end in BatchNorm; only MoCo-v3's narrows.
    return ("barlow_twins",) if config.out_features == config.hidden else ("mocov3",)


def method_in_name(name: str) -> str | None:
    """Return the method of a name `ARCH_METHOD` or `ARCH_cassle_METHOD`; `None` for others."""
    base = name.partition(".")[0]
    for arch in BACKBONES:
        method = base.removeprefix(f"{arch}_").removeprefix("cassle_")
        if base.startswith(f"{arch}_") and method in PROJECTORS:
            return method
    return None
