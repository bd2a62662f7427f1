"""Starting weights: into a method's backbone, teacher and projector.

timm adapts the weights to the run's network: it renames those of other codebases, and changes them
for other input channels and, in ViTs, for the positions of another image size. If not all weights
can be loaded, it is an error.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import timm

from cassle_zoo.accel.initialisation import skip_random_weights
from cassle_zoo.checkpoints.identify import CheckpointFacts
from cassle_zoo.common.errors import CheckpointError, ConfigError
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.store.config import check_model_args
from cassle_zoo.store.tensors import layer_prefixes, load_strictly, structure_sha256
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods import Method
from cassle_zoo.train.methods.teacher import EMATeacher
from cassle_zoo.train.sources import Source, State, pretrained_cfg, read_source
from cassle_zoo.zoo.names import resolve_arch
from cassle_zoo.zoo.width import without_weights

# Arguments of a timm model that do not change what its weights mean; timm adapts them.
_ADAPTED = ("img_size", "in_chans", "num_classes", "drop_rate", "drop_path_rate")


def find(config: TrainConfig) -> Source | None:
    """Find the weights that `config.init` names, and read them.

    Args:
        config: The run's settings.

    Returns:
        The weights; `None` if the run starts from random ones.

    Raises:
        CassleZooError: As :func:`cassle_zoo.train.sources.read_source`; or if the weights are of
            another architecture.
    """
    what, arch = config.init, config.arch
    if not what:
        return None
    timm_arch, args = _network(config)
    facts = CheckpointFacts(arch=timm_arch, num_heads=args.get("num_heads"))
    try:
        source = read_source(what, facts)
    except CheckpointError as error:
        if " --" not in str(error):
            raise
        raise CheckpointError(
            f"{error} These are options of `cassle-zoo hub convert`; run it, and give --init the "
            "folder that it writes."
        ) from error
    if source.timm_arch != timm_arch:
        raise ConfigError(
            f"init {what!r} holds weights of {source.timm_arch}, but the run trains arch {arch!r}"
            f"{'' if arch == timm_arch else f' ({timm_arch})'}; use arch {source.timm_arch!r}, or "
            "other weights."
        )
    theirs, ours = (
        {k: v for k, v in a.items() if k not in _ADAPTED} for a in (source.model_args, args)
    )
    try:
        check_model_args(theirs)
    except ConfigError as error:
        raise ConfigError(f"init {what!r}: {error}") from error
    try:
        differ = theirs != ours and (
            structure_sha256(without_weights(timm_arch, theirs))
            != structure_sha256(without_weights(timm_arch, ours))
        )
    except Exception as error:  # a network may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"init {what!r}: {timm_arch} cannot be built as its configuration says: {reason:.200}"
        ) from error
    if differ:
        raise ConfigError(
            f"init {what!r} holds weights of {timm_arch} built with {theirs or 'no arguments'}, "
            f"but arch {arch!r} is built with {ours or 'none'}; the features would be wrong."
        )
    return source


def load(source: Source, method: Method, config: TrainConfig) -> None:
    """Load weights into a method, and into its teacher.

    Args:
        source: From :func:`find`.
        method: As `config` says, newly built.
        config: The run's settings.

    Raises:
        ConfigError: If the weights cannot be adapted to the network, or the projector does not fit,
            or there is none but `init_projector` is `yes`.
        CheckpointError: If weights are missing, or not finite.
    """
    timm_arch, args = _network(config)
    fitted = fit(source, timm_arch, args, config.augment.size)
    load_strictly(method.backbone, fitted, source.path)
    used = _projector(source, method, config.init_projector)
    if used is not None:
        method.projector.load_state_dict(used.state_dict())
    for teacher in method.modules():
        if isinstance(teacher, EMATeacher):
            teacher.backbone.load_state_dict(method.backbone.state_dict())
            teacher.projector.load_state_dict(method.projector.state_dict())
    method.starting_weights = dataclasses.replace(
        source.record, projector=used is not None, interpolation=source.preprocessing.interpolation
    )


def with_own_preprocessing(
    config: TrainConfig, said: Collection[str], report: Callable[[str], None]
) -> TrainConfig:
    """Return settings with the size and normalisation of views that the starting weights expect.

    Args:
        config: The run's settings.
        said: Names of settings given by the user; `size`, `mean` and `std` stay if among them.
        report: Called with a line about what changed.

    Raises:
        CassleZooError: As :func:`find`.
    """
    if (source := find(config)) is None:
        return config
    own, augment = source.preprocessing, config.augment
    usual = {"size": own.size, "mean": own.mean, "std": own.std}
    if len(own.mean) != len(augment.mean):  # another number of channels
        usual = {"size": own.size}
    changes: dict[str, Any] = {
        name: value
        for name, value in usual.items()
        if name not in said and value != getattr(augment, name)
    }
    if not changes:
        return config
    words = ", ".join(f"augment.{name} {value}" for name, value in changes.items())
    name = source.record.name
    if own.assumed:
        report(f"{words}: {own.assumed}, since {name} does not say all of it.")
    else:
        report(f"{words}, as {name} expects.")
    return dataclasses.replace(config, augment=dataclasses.replace(augment, **changes))


def _network(config: TrainConfig) -> tuple[str, dict[str, Any]]:
    """Return the timm model that a run trains, and its arguments."""
    return resolve_arch(config.arch, config.augment.size, config.augment.channels)


def describe(source: Source, method: Method, config: TrainConfig) -> list[str]:
    """Describe what a run starts from, in sentences for its log."""
    record, own, used = source.record, source.preprocessing, config.augment
    start = method.starting_weights
    begins = "starts from them, too" if start is not None and start.projector else "is new"
    lines = [
        f"starting from {record.name} (sha256 {record.sha256[:12]}..., licence "
        f"{record.license or 'unknown'}); the projector {begins}.",
        *source.notes,
    ]
    if (own.mean, own.std) != (used.mean, used.std):
        lines.append(
            f"these weights {'are assumed to expect' if own.assumed else 'expect'} images "
            f"normalised with mean {own.mean} and std {own.std}, but the run uses {used.mean} and "
            f"{used.std}."
        )
    return lines


def fit(source: Source, timm_arch: str, args: Mapping[str, Any], size: int) -> State:
    """Let timm load weights into a network, and return that network's.

    Args:
        source: From :func:`find`.
        timm_arch: Name of the timm model.
        args: Its arguments; `in_chans` is 3 by default.
        size: Height and width of its images in pixels.

    Raises:
        ConfigError: If timm cannot adapt the weights to these input channels.
        CheckpointError: If weights are missing, too many, of other shapes, or not finite.
    """
    args = {"in_chans": 3, **args}
    used: dict[str, Any] = {
        **pretrained_cfg(timm_arch),
        **{k: v for k, v in source.cfg.items() if v is not None},
    }
    state = {k: v.float() if v.is_floating_point() else v for k, v in source.state.items()}
    classes = source.cfg.get("num_classes") or 0
    if not classes:
        state = {
            k: v for k, v in state.items() if not k.startswith(layer_prefixes(used, "classifier"))
        }
    overlay: dict[str, Any] = {
        "state_dict": state,
        "custom_load": False,
        "num_classes": classes,
        "input_size": (_channels(used, state, args["in_chans"]), size, size),
        **{k: used[k] for k in ("classifier", "first_conv", "label_offset") if k in used},
    }
    if used.get("fixed_input_size"):
        args = {**args, "img_size": size}
    try:
        with skip_random_weights(nan=True):
            network: Any = timm.create_model(
                timm_arch,
                pretrained=True,
                pretrained_cfg_overlay=overlay,
                num_classes=classes,
                **args,
            )
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the weights of {source.record.name} ({source.path.name}) do not fit {timm_arch}: "
            f"{reason:.500}"
        ) from error
    if classes:
        network.reset_classifier(0)
    fitted: State = network.state_dict()
    bad = [k for k, v in fitted.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"the weights of {source.record.name} ({source.path.name}) lack {bad[0]}, or hold NaN "
            f"or infinity there ({len(bad)} of {len(fitted)} tensors); take other weights."
        )
    return fitted


def _channels(cfg: Mapping[str, Any], state: State, wanted: int) -> int:
    """Return the input channels that weights are for, after checking that timm can adapt them."""
    first = [state[k] for p in layer_prefixes(cfg, "first_conv") if (k := f"{p}weight") in state]
    channels = int((cfg.get("input_size") or (3,))[0])
    if "input_size" not in cfg or not first:
        return channels
    own = first[0].shape[1] if first[0].ndim == 4 else channels
    if own not in (wanted, 3):
        raise ConfigError(f"timm adapts weights for 3 channels only, not from {own} to {wanted}.")
    return own


def _projector(source: Source, method: Method, setting: str) -> ConditionedProjector | None:
    """Return the projector to start from, after checking that it fits."""
    found = source.projector
    if setting == "no" or (found is None and setting == "auto"):
        return None
    if found is None:
        raise ConfigError(
            f"init_projector is 'yes', but {source.record.name} has no projector; leave it out."
        )
    theirs, ours = (
        {**c.to_dict(), "hidden_features": c.hidden}
        for c in (found.config, method.projector.config)
    )
    if theirs != ours:
        differing = "; ".join(
            f"{k}: {theirs[k]!r} there, {ours[k]!r} now" for k in ours if theirs[k] != ours[k]
        )
        raise ConfigError(
            f"the projector of {source.record.name} does not fit the run's ({differing}); set "
            "init_projector to 'no' for a new projector, or give the run the same settings."
        )
    return found
