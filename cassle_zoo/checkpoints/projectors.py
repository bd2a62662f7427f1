"""The projector in a checkpoint: its configuration, read off its tensors.

The checkpoints of the paper's code have their own names for its parts; those of our trainer, and of
a user's own loop around :class:`~cassle_zoo.projector.ConditionedProjector`, have ours. The
configuration follows from the tensors, except for a few cases that only the settings beside the
file or the user can decide.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from cassle_zoo.augmentation.descriptors import (
    ALL_DESCRIPTORS,
    PAPER_DESCRIPTORS,
    DescriptorLayout,
)
from cassle_zoo.checkpoints.backbones import State, difference
from cassle_zoo.common.errors import CheckpointError, ConfigError
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.records import SETTINGS_FILE

Notes = tuple[str, ...]
"""Assumptions, in sentences."""

# Parts of the projector under the names of the paper's code, and ours.
_PARTS = {
    "aug_processor.": "encoder.",
    "projector_hn.": "encoder.",
    "projector_bns.": "norms.",
    "projector.": "layers.",
}
# (depth, out_features) of the methods' projectors: all that a hypernetwork's output can be.
GENERATED = {
    (2, 128): ("simclr", "mocov2"),
    (2, 256): ("byol",),
    (3, 256): ("mocov3",),
    (3, 8192): ("barlow_twins",),
    (2, 2048): ("simsiam",),
    (3, 2048): ("simsiam",),
}

# What the weights of a ConditionedProjector are called.
_OUR_KEY = re.compile(
    r"(?:^|(?<=\.))((?:encoder|layers|norms)\.\d+\."
    r"(?:weight|bias|running_mean|running_var|num_batches_tracked))$"
)


class NoProjectorError(CheckpointError):
    """The tensors are not those of a ConditionedProjector."""


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
        state: Its weights, under the names of the paper's code or ours.
        in_features: Width of the backbone's features.
        conditioning: Conditioning, where the tensors leave a choice.
        descriptors: Names of the descriptors, where their number leaves a choice.
        args: Content of the JSON file beside the checkpoint, if there is one: args.json of the
            paper's code, or config.json of a run of our trainer.

    Returns:
        The projector with these weights in float32, and the assumptions.

    Raises:
        NoProjectorError: If the tensors are not understood.
        CheckpointError: If they leave a choice that nothing decides, or contradict `args` or the
            options.
    """
    stated = _stated_beside(args or {})
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if not any(map(_OUR_KEY.fullmatch, state)):
        unknown = [key for key in state if not key.startswith(tuple(_PARTS))]
        if unknown:
            raise NoProjectorError(f"the projector has unknown parts: {', '.join(unknown[:5])}.")
        state = {_our_name(key): value for key, value in state.items()}
    shape, possible = _shape(state, in_features, stated)
    width = shape.pop("omega", 0)
    chosen = _choose_conditioning(possible, conditioning, stated)
    if chosen == "none" and descriptors:
        raise CheckpointError(
            f"--descriptors says {', '.join(descriptors)}, but the projector is not conditioned."
        )
    names, notes = ((), ()) if chosen == "none" else _choose_descriptors(width, descriptors, stated)
    try:
        with torch.device("meta"):
            projector = ConditionedProjector(
                ProjectorConfig(
                    in_features=in_features, conditioning=chosen, descriptors=names, **shape
                )
            )
    except ConfigError as error:
        raise CheckpointError(f"the projector: {error}") from error
    if wrong := difference(state, projector):
        raise NoProjectorError(f"the projector's tensors do not agree with each other ({wrong}).")
    projector.load_state_dict(state, assign=True)
    return projector.float(), notes


def has_papers_names(keys: Iterable[str]) -> bool:
    """Return whether weights of a projector have the names that the paper's code gives its parts.

    Args:
        keys: Names of the weights.
    """
    return any(key.removeprefix("module.").startswith(tuple(_PARTS)) for key in keys)


def projector_prefixes(keys: Iterable[str]) -> list[str]:
    """Return the prefixes under which all weights are named like those of a ConditionedProjector.

    Args:
        keys: Names of weights.
    """
    names = list(keys)
    prefixes = {name[: match.start(1)] for name in names if (match := _OUR_KEY.search(name))}
    return [
        prefix
        for prefix in sorted(prefixes)
        if all(_OUR_KEY.fullmatch(n.removeprefix(prefix)) for n in names if n.startswith(prefix))
    ]


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


def _shape(
    state: State, in_features: int, stated: "_Stated"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return fields of ProjectorConfig, the width `omega`, and the possible conditionings."""
    fields: dict[str, Any] = {}
    encoder = _linears(state, "encoder.")
    if encoder:
        fields |= {
            "omega": encoder[0][0],
            "encoder_depth": len(encoder),
            "encoder_width": encoder[0][1] if len(encoder) > 1 else 64,
        }
    layers = _linears(state, "layers.")
    if encoder and not layers:
        norms = {key.split(".")[1] for key in state if key.startswith("norms.")}
        shape = stated.generated or _generated_shape(
            encoder[-1][1], in_features, len(norms) + 1 if norms else None
        )
        if stated.generated and len(norms) == shape["depth"]:
            affine = f"norms.{shape['depth'] - 1}.weight" in state
            shape = {**shape, "last_bn": True, "last_bn_affine": affine}
        return fields | shape, ("hypernet_bn" if norms else "hypernet",)
    if not layers:
        raise NoProjectorError("the projector has no layers.")
    last = f"layers.{3 * (len(layers) - 1) + 1}."
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
    if not encoder and 0 < extra <= ALL_DESCRIPTORS.width:
        return fields | {"omega": extra}, ("raw_cat",)
    raise NoProjectorError(
        f"the projector takes {layers[0][0]} numbers, but the backbone has {in_features} features"
        + (f" and the augmentation encoder gives {encoder[-1][1]}." if encoder else ".")
    )


def _generated_shape(weights: int, in_features: int, depth: int | None) -> dict[str, Any]:
    """Find the shape of a generated projector: all hidden layers have the features' width."""
    for candidate, out in GENERATED:
        generated = (in_features + 1) * ((candidate - 1) * in_features + out)
        if weights == generated and depth in (None, candidate):
            return {"depth": candidate, "out_features": out}
    raise CheckpointError(
        f"the hypernetwork generates {weights} weights, which no method's projector has on "
        f"{in_features} features."
    )


@dataclass(frozen=True, kw_only=True)
class _Stated:
    """What the JSON file beside a checkpoint says about the projector."""

    source: str
    conditioning: str | None = None
    descriptors: tuple[str, ...] = ()
    generated: dict[str, Any] | None = None
    """Depth and widths of a projector that a hypernetwork generates."""


def _stated_beside(args: Mapping[str, Any]) -> _Stated:
    run, method = args.get("conditioning"), args.get("method")
    if isinstance(run, dict) and isinstance(method, dict):  # the settings of our trainer
        mode = run.get("mode", run.get("how"))
        names = ("depth", "hidden_features", "out_features")
        return _Stated(
            source=SETTINGS_FILE,
            conditioning=mode,
            descriptors=tuple(run.get("descriptors") or ()),
            generated={k: method[k] for k in names} if set(names) <= method.keys() else None,
        )
    treatment, injection = args.get("aug_treatment"), args.get("aug_inj_type")
    mode = None
    if treatment == "hn" and isinstance(injection, str):
        mode = "hypernet_bn" if args.get("aug_hn_type") == "mlp-bn" else "hypernet"
    elif isinstance(treatment, str) and isinstance(injection, str):
        mode = injection.removeprefix("proj-")
        mode = mode if treatment == "mlp" or mode == "none" else f"{treatment}_{mode}"
    return _Stated(
        source="args.json", conditioning=mode, descriptors=tuple(args.get("aug_cond") or ())
    )


def check_stated(
    what: str, sources: Mapping[str, str | None], possible: tuple[str, ...]
) -> str | None:
    """Return the value of the first source that has one.

    Args:
        what: What is stated, for the message.
        sources: Stated values by source; `None` where it says nothing.
        possible: What the tensors allow; anything if empty.

    Raises:
        CheckpointError: If a source contradicts the tensors.
    """
    for source, value in sources.items():
        if value is not None and possible and value not in possible:
            raise CheckpointError(
                f"{source} says {what} {value!r}, but the tensors are those of "
                f"{' or '.join(possible)}."
            )
    return next((value for value in sources.values() if value is not None), None)


def _choose_conditioning(possible: tuple[str, ...], option: str | None, stated: _Stated) -> str:
    sources = {"--conditioning": option, stated.source: stated.conditioning}
    chosen = check_stated("conditioning", sources, possible)
    if chosen is None and possible == ("add", "mul"):
        raise CheckpointError(
            "the projector adds or multiplies the encoded augmentation, and the tensors of both "
            "are the same; give --conditioning add or --conditioning mul, or put args.json beside "
            "the file."
        )
    return chosen or possible[0]


def _choose_descriptors(
    width: int, option: Sequence[str] | None, stated: _Stated
) -> tuple[tuple[str, ...], Notes]:
    for names, source in ((option, "--descriptors"), (stated.descriptors, stated.source)):
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
        for count in range(1, len(ALL_DESCRIPTORS.names) + 1)
        for names in combinations(ALL_DESCRIPTORS.names, count)
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
