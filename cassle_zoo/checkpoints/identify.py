"""Content of a checkpoint file: the code that wrote it, its backbone, and its projector if any.

Checkpoints of this library's trainer, of the paper's code, and of any code around a
`ConditionedProjector` are read with their projector; of others, solo-learn's, lightly's and
Facebook's among them, only the backbone is. Missing facts are asked for, or assumed and reported.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm

from cassle_zoo.checkpoints.backbones import (
    OWN_FORMAT,
    FoundWeights,
    IdentifiedBackbone,
    find_weights,
    identify_backbone,
    layers,
    without_copies,
)
from cassle_zoo.checkpoints.checkpoint_file import read_checkpoint
from cassle_zoo.checkpoints.official import choose_method, is_official
from cassle_zoo.checkpoints.projectors import (
    NoProjectorError,
    Notes,
    check_stated,
    projector_prefixes,
    read_projector,
)
from cassle_zoo.checkpoints.run_checkpoint import averaged, is_own_run
from cassle_zoo.common.errors import CheckpointError
from cassle_zoo.common.files import read_json
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.records import SETTINGS_FILE, START
from cassle_zoo.zoo.names import (
    contradictions,
    dataset_of,
    parse_name,
    public_settings,
    resolve_arch,
)
from cassle_zoo.zoo.width import without_weights

_ARGS_DATASETS = {"imagenet100": "in100", "stl10": "stl10"}
OFFICIAL_FORMAT = "the paper's code (gmum/CASSLE)"
# What Lightning modules call the size of their images.
_SIZES = ("image_size", "img_size", "input_size", "crop_size", "size")
# Settings in args.json that describe the training; paths and the like stay out of model folders.
_SETTINGS = re.compile(
    r"framework|dataset|model|batch_size|max_epochs|base_lr|wd|seed|(aug|ss)_\w+|color_aug"
)


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """Facts about a checkpoint that the user knows; `None` leaves a fact to the file.

    Attributes:
        method: SSL method.
        conditioning: How the projector is conditioned: `add` or `mul`, which look the same.
        descriptors: Names of the descriptors that the projector takes.
        arch: timm model of the backbone.
        num_heads: Attention heads of a ViT.
        prefix: Prefix of the names of the backbone's weights.
    """

    method: str | None = None
    conditioning: str | None = None
    descriptors: tuple[str, ...] | None = None
    arch: str | None = None
    num_heads: int | None = None
    prefix: str | None = None


@dataclass(frozen=True, kw_only=True)
class IdentifiedCheckpoint:
    """An identified checkpoint.

    Attributes:
        format: Which code wrote it, in words.
        method: SSL method.
        backbone: The backbone under timm's names.
        projector: The projector with its weights, if there is one that is understood.
        data: Pretraining data, a key of :data:`cassle_zoo.specs.DATASETS`, if the file or the
            settings beside it tell.
        size: Height and width of the images in pixels, likewise.
        mean: Per-channel mean subtracted from images in [0, 1], likewise.
        std: Per-channel standard deviation that they are divided by, likewise.
        interpolation: How images are resized, likewise.
        training: Known facts about the training, by name.
        notes: Assumptions, in sentences.
        dropped: The other contents of the checkpoint.
    """

    format: str
    method: str
    backbone: IdentifiedBackbone
    projector: ConditionedProjector | None = None
    data: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def is_of_the_paper(self) -> bool:
        """Whether the model is CASSLE's, or one that was trained as its baseline."""
        if self.format in (OFFICIAL_FORMAT, OWN_FORMAT):
            return self.projector is not None
        return self.projector is not None and self.projector.config.conditioning != "none"

    @property
    def is_self_supervised(self) -> bool:
        """Whether code for SSL wrote it, whose images are normalised as for ImageNet by default."""
        known = self.method != "unknown" or self.format in ("solo-learn", "lightly")
        return known or self.projector is not None

    def in_words(self) -> str:
        """Return a description of the model, on one line."""
        backbone = self.backbone
        args = ", ".join(f"{key}={value}" for key, value in backbone.model_args.items())
        method = "unknown method" if self.method == "unknown" else self.method
        words = f"{backbone.timm_arch}{f' ({args})' if args else ''}, {method}"
        if self.projector is None:
            return f"{words}, no projector"
        config = self.projector.config
        omega = f" on {', '.join(config.descriptors)}" if config.descriptors else ""
        return f"{words}, projector conditioned by {config.conditioning}{omega}"


def identify(
    path: str | Path, facts: CheckpointFacts | None = None, *, name: str = ""
) -> IdentifiedCheckpoint:
    """Read a checkpoint file and identify what is in it. Nothing in the file is run.

    `args.json` (or `NAME.args.json` for a checkpoint `NAME.pth`) beside the file is read if there
    is one; for the `checkpoint.pt` of a run, it is the run's `config.json`.

    Args:
        path: The checkpoint.
        facts: What the user knows about it.
        name: Name given to the model; one of the form `ARCH_METHOD` must agree with the file.

    Raises:
        CheckpointError: If the file is unsafe, damaged or not understood, or contradicts its name,
            args.json or `facts`.
        UnknownNameError: If timm has no model `facts.arch`.
        ConfigError: If `facts.num_heads` does not divide the width of a ViT.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    args = read_settings(path) if is_own_run(checkpoint) else read_args(path)
    try:
        return identify_content(checkpoint, args, name, facts or CheckpointFacts())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def identify_content(
    checkpoint: Any, args: Mapping[str, Any], name: str, facts: CheckpointFacts
) -> IdentifiedCheckpoint:
    """Identify the content of a checkpoint file.

    Args:
        checkpoint: Content of the file.
        args: Content of args.json (or a run's config.json) beside it; empty if there is none.
        name: Name given to the model.
        facts: What the user knows.

    Raises:
        CheckpointError: If it is not understood, or contradicts its name, args.json or the facts.
    """
    if is_official(checkpoint):
        found = _official(checkpoint, args, name, facts)
    elif is_own_run(checkpoint):
        found = _own(checkpoint, args, name, facts)
    else:
        found = _foreign(checkpoint, args, name, facts)
    projector = found.projector
    wrong = contradictions(
        name,
        timm_arch=found.backbone.timm_arch,
        method=found.method,
        conditioned=None if projector is None else projector.config.conditioning != "none",
        reader=args.get("data", {}).get("dataset") if is_own_run(checkpoint) else None,
    )
    if wrong:
        said, other = parse_name(name).method, ""
        if len(wrong) == 1 and said not in (None, found.method):  # such as mocov2plus
            other = f", or --method {said} if {found.method} is another word for it"
        raise CheckpointError(f"{'; '.join(wrong)}; give another name{other}.")
    return found


def _official(
    checkpoint: dict[str, Any], args: Mapping[str, Any], name: str, facts: CheckpointFacts
) -> IdentifiedCheckpoint:
    backbone = identify_backbone(
        checkpoint["backbone"], arch=facts.arch, num_heads=facts.num_heads, mocov3=True
    )
    projector, notes = read_projector(
        checkpoint["projector"],
        backbone.width,
        conditioning=facts.conditioning,
        descriptors=facts.descriptors,
        args=args,
    )
    method, method_notes = choose_method(
        projector.config,
        has_predictor=bool(checkpoint.get("predictor")),
        option=facts.method,
        args=args,
        name=name,
    )
    settings = {key: value for key, value in args.items() if _SETTINGS.fullmatch(key)}
    trainer = checkpoint.get("trainer")
    iterations = trainer.get("iteration") if isinstance(trainer, dict) else None
    others = [k for k, value in checkpoint.items() if k not in ("backbone", "projector") and value]
    return IdentifiedCheckpoint(
        format=OFFICIAL_FORMAT,
        method=method,
        backbone=backbone,
        projector=projector,
        data=_ARGS_DATASETS.get(str(args.get("dataset"))),
        training={
            "iterations": iterations if isinstance(iterations, int) and iterations else None,
            "config": {"args.json": settings} if settings else None,
        },
        notes=(*backbone.notes, *notes, *method_notes),
        dropped=(*backbone.dropped, *others),
    )


def _own(
    checkpoint: dict[str, Any], settings: Mapping[str, Any], name: str, facts: CheckpointFacts
) -> IdentifiedCheckpoint:
    """Identify a checkpoint of our trainer by its run's settings or, without them, its tensors."""
    weights = find_weights(averaged(checkpoint), prefix=facts.prefix or "backbone")
    augment = settings.get("augment", {})
    size, arch, args, heads = augment.get("size"), facts.arch, dict[str, Any](), facts.num_heads
    if "arch" in settings:
        own, own_args = resolve_arch(settings["arch"], size)
        if arch in (None, own):
            arch, args, heads = own, own_args, None
    backbone = identify_backbone(weights.state, arch=arch, model_args=args, num_heads=heads)
    if heads is None and facts.num_heads is not None:
        _check_heads(backbone, facts.num_heads)
    projector, dropped, notes = _projector(weights, backbone, settings, facts)
    trained = settings.get("method", {}).get("name")
    sources = {"--method": facts.method, f"the name {name}": parse_name(name).method}
    stated = check_stated("method", sources, (trained,) if trained else ())
    start = settings.get(START)
    return IdentifiedCheckpoint(
        format=weights.format,
        method=trained or stated or "unknown",
        backbone=backbone,
        projector=projector,
        data=dataset_of(settings.get("data", {}).get("dataset", "")),
        size=size,
        mean=tuple(augment["mean"]) if "mean" in augment else None,
        std=tuple(augment["std"]) if "std" in augment else None,
        interpolation=(start or {}).get("interpolation"),
        training={
            "steps": checkpoint["step"],
            "init": start,
            "config": {SETTINGS_FILE: public_settings(settings)} if settings else None,
        },
        notes=(*backbone.notes, *notes),
        dropped=(*dropped, *backbone.dropped),
    )


def _check_heads(backbone: IdentifiedBackbone, stated: int) -> None:
    """Check the number of attention heads of a run's network, which its weights do not show.

    Raises:
        CheckpointError: If it has another number of them.
    """
    attention = dict(backbone.model.named_modules()).get("blocks.0.attn")
    if (own := getattr(attention, "num_heads", None)) != stated:
        raise CheckpointError(
            f"the run trained {backbone.timm_arch} with {own or 'no'} attention heads, as its "
            f"config.json says, not with {stated}; the features would be wrong."
        )


def _foreign(
    checkpoint: Any, args: Mapping[str, Any], name: str, facts: CheckpointFacts
) -> IdentifiedCheckpoint:
    weights = find_weights(checkpoint, prefix=facts.prefix, arch=facts.arch)
    backbone = identify_backbone(
        weights.state,
        arch=facts.arch,
        num_heads=facts.num_heads,
        mocov3=weights.method in ("mocov3", "mae"),  # solo-learn's MAE builds them likewise
    )
    if facts.arch is None:
        _check_arch(checkpoint.get("arch"), backbone)
    projector, dropped, notes = _projector(weights, backbone, {}, facts)
    if projector is None and (facts.conditioning is not None or facts.descriptors is not None):
        raise CheckpointError(
            "--conditioning and --descriptors describe a projector, but only the checkpoints of "
            "the paper's code, with 'backbone' and 'projector', and those with a "
            "ConditionedProjector have one that can be converted."
        )
    return IdentifiedCheckpoint(
        format=weights.format,
        method=facts.method or weights.method or parse_name(name).method or "unknown",
        backbone=backbone,
        projector=projector,
        data=_ARGS_DATASETS.get(str(args.get("dataset"))),
        size=_image_size(checkpoint.get("hyper_parameters")),
        notes=(*backbone.notes, *notes),
        dropped=(*dropped, *backbone.dropped),
    )


def _check_arch(stated: Any, backbone: IdentifiedBackbone) -> None:
    """Check the architecture that timm's training script, for one, saves beside the weights.

    Raises:
        CheckpointError: If it has other layers: those without weights, such as anti-aliasing.
    """
    arch = stated.partition(".")[0] if isinstance(stated, str) else ""
    if arch == backbone.timm_arch or not timm.is_model(arch):
        return
    own: dict[str, str] = {}
    with suppress(TypeError):  # of another family, which does not take the arguments
        own = layers(without_weights(arch, backbone.model_args))
    if own != layers(backbone.model):
        raise CheckpointError(
            f"the weights fit {backbone.timm_arch}, but the file says that they are of {arch}, "
            "which has other layers; say with --arch which it is."
        )


def _projector(
    weights: FoundWeights,
    backbone: IdentifiedBackbone,
    settings: Mapping[str, Any],
    facts: CheckpointFacts,
) -> tuple[ConditionedProjector | None, Notes, Notes]:
    """Find the trained ConditionedProjector beside a backbone.

    Returns:
        The projector, the contents of the checkpoint that are left out, and the assumptions.
    """
    prefixes = without_copies(projector_prefixes(weights.others))
    parent = weights.prefix.rstrip(".").rpartition(".")[0]
    # Beside this backbone, if there are others: an EMA teacher has its own.
    prefixes = [p for p in prefixes if p.rstrip(".").rpartition(".")[0] == parent] or prefixes
    read: dict[str, tuple[ConditionedProjector, Notes]] = {}
    for prefix in prefixes:
        with suppress(NoProjectorError):  # a predictor, say
            read[prefix] = read_projector(
                {
                    k.removeprefix(prefix): v
                    for k, v in weights.others.items()
                    if k.startswith(prefix)
                },
                backbone.width,
                conditioning=facts.conditioning,
                descriptors=facts.descriptors,
                args=settings,
            )
    conditioned = [k for k, (found, _) in read.items() if found.config.conditioning != "none"]
    chosen = conditioned or list(read)
    if len(chosen) > 1:
        words = " and ".join(prefix.rstrip(".") for prefix in chosen)
        return None, weights.dropped(), (f"no projector, since {words} are equally likely",)
    if not chosen:
        return None, weights.dropped(), ()
    projector, notes = read[chosen[0]]
    if not (conditioned or settings):
        name = chosen[0].rstrip(".")
        notes = (*notes, f"{name} is a plain projector, with ReLU after its hidden layers")
    return projector, weights.dropped(chosen[0]), notes


def _image_size(settings: Any) -> int | None:
    """Return the image size in Lightning's hyper-parameters; `None` if they do not state it."""
    if not isinstance(settings, dict):
        return None
    for name in _SIZES:
        value = settings.get(name)
        if isinstance(value, list | tuple) and len(set(value)) == 1:
            value = value[0]
        if type(value) is int and value > 0:
            return value
    return None


def read_args(path: Path) -> Mapping[str, Any]:
    """Read `NAME.args.json` or `args.json` beside a checkpoint NAME.pth; empty if there is none.

    Raises:
        CheckpointError: If it is not a JSON object.
    """
    return _first_object(path.with_suffix(".args.json"), path.with_name("args.json"))


def read_settings(path: Path) -> Mapping[str, Any]:
    """Read the settings of the run whose `checkpoint.pt` is at `path`; empty if they are not there.

    Raises:
        CheckpointError: If they are not a JSON object.
    """
    return _first_object(path.with_name(SETTINGS_FILE))


def _first_object(*files: Path) -> Mapping[str, Any]:
    for file in filter(Path.is_file, files):
        try:
            return read_json(file)
        except ValueError as error:
            raise CheckpointError(
                f"{file} must hold the run's settings, as a JSON object ({error})."
            ) from error
    return {}
