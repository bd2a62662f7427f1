"""Understands the checkpoints of the paper's code (gmum/CASSLE).

They hold `backbone`, `projector`, for some methods `predictor`, for AugSelf `ss_predictor`, and the
state of the optimisers. What the projector is follows from its tensors, except for a few cases that
only `args.json`, the name or an option can decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from cassle_zoo.hub.convert.backbones import State
from cassle_zoo.hub.convert.official_method import HYPERNET_SHAPES
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig

PARTS = ("backbone", "projector", "predictor", "ss_predictor")


@dataclass(frozen=True, kw_only=True)
class OfficialProjector:
    """A projector of the paper's code in our terms.

    Attributes:
        config: Its configuration.
        state: Weights under our names.
        notes: What was assumed, in sentences.
    """

    config: ProjectorConfig
    state: State
    notes: tuple[str, ...]


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
) -> OfficialProjector:
    """Work out what a projector is from its tensors.

    Args:
        state: `checkpoint["projector"]`.
        in_features: Width of the backbone's features.
        conditioning: Conditioning, where the tensors leave a choice.
        descriptors: Names of the descriptors, where their number leaves a choice.
        args: Content of args.json, if there is one.

    Raises:
        CheckpointError: If the tensors are not understood, leave a choice that nothing decides, or
            contradict `args` or the options.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    unknown = [key for key in state if not key.startswith(tuple(_OUR_NAMES))]
    if unknown:
        raise CheckpointError(f"the projector has unknown parts: {', '.join(unknown[:5])}.")
    args = args or {}
    shape, possible = _shape(state, in_features)
    chosen = _choose_conditioning(possible, conditioning, args)
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if chosen != "none":
        names, notes = _choose_descriptors(shape.pop("omega"), descriptors, args)
    shape.pop("omega", None)
    try:
        config = ProjectorConfig(
            in_features=in_features, conditioning=chosen, descriptors=names, **shape
        )
    except ConfigError as error:
        raise CheckpointError(f"the projector: {error}") from error
    renamed = {_our_name(key): value for key, value in state.items()}
    _check_shapes(renamed, config)
    return OfficialProjector(config=config, state=renamed, notes=notes)


_OUR_NAMES = {
    "aug_processor.": "encoder.",
    "projector_hn.": "encoder.",
    "projector_bns.": "norms.",
    "projector.": "layers.",
}


def _our_name(key: str) -> str:
    prefix = next(p for p in _OUR_NAMES if key.startswith(p))
    return _OUR_NAMES[prefix] + key.removeprefix(prefix)


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
        shape = _hypernet_shape(encoder[-1][1], in_features, len(norms) + 1 if norms else None)
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


def _hypernet_shape(weights: int, in_features: int, depth: int | None) -> dict[str, Any]:
    """Find the shape of a generated projector: all hidden layers have the features' width."""
    for candidate, out in HYPERNET_SHAPES:
        generated = (in_features + 1) * ((candidate - 1) * in_features + out)
        if weights == generated and depth in (None, candidate):
            return {"depth": candidate, "out_features": out}
    raise CheckpointError(
        f"the hypernetwork generates {weights} weights, which no method's projector has on "
        f"{in_features} features."
    )


def _choose_conditioning(
    possible: tuple[str, ...], option: str | None, args: Mapping[str, Any]
) -> str:
    stated = _stated_conditioning(args)
    for value, source in ((option, "--conditioning"), (stated, "args.json")):
        if value is not None and value not in possible:
            raise CheckpointError(
                f"{source} says conditioning {value!r}, but the tensors are those of "
                f"{' or '.join(possible)}."
            )
    if option is not None or stated is not None:
        return option or str(stated)
    if possible == ("add", "mul"):
        raise CheckpointError(
            "the projector adds or multiplies the encoded augmentation, and the tensors of both "
            "are the same; give --conditioning add or --conditioning mul, or put args.json beside "
            "the file."
        )
    return possible[0]


def _stated_conditioning(args: Mapping[str, Any]) -> str | None:
    treatment, injection = args.get("aug_treatment"), args.get("aug_inj_type")
    if not isinstance(treatment, str) or not isinstance(injection, str):
        return None
    if treatment == "hn":
        return "hypernet_bn" if args.get("aug_hn_type") == "mlp-bn" else "hypernet"
    how = injection.removeprefix("proj-")
    return how if treatment == "mlp" or how == "none" else f"{treatment}_{how}"


def _choose_descriptors(
    width: int, option: Sequence[str] | None, args: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the descriptors, and what was assumed."""
    stated = args.get("aug_cond")
    for names, source in ((option, "--descriptors"), (stated, "args.json")):
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
        f"several sets of descriptors have {width} numbers ({shown}); say which with "
        "--descriptors, or put args.json beside the file."
    )


def _check_shapes(state: State, config: ProjectorConfig) -> None:
    with torch.device("meta"):
        expected = ConditionedProjector(config).state_dict()
    wrong = [
        f"{key} is {_shape_of(state.get(key))}, not {_shape_of(expected.get(key))}"
        for key in sorted(state.keys() | expected.keys())
        if _shape_of(state.get(key)) != _shape_of(expected.get(key))
    ]
    if wrong:
        raise CheckpointError(
            f"the projector's tensors do not agree with each other: {'; '.join(wrong[:3])}."
        )


def _shape_of(value: Tensor | None) -> tuple[int, ...] | str:
    return "missing" if value is None else tuple(value.shape)
