"""What a checkpoint is: its format, backbone, method, and projector."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import CheckpointError, ConfigError, unknown_name
from cassle_zoo.common.files import read_json
from cassle_zoo.hub.convert.backbones import IdentifiedBackbone, find_weights, identify_backbone
from cassle_zoo.hub.convert.official import (
    choose_method,
    is_official,
    method_in_name,
    read_projector,
)
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.specs import BACKBONES, DATASETS

# Of args.json, what describes the training; paths and the like stay out of the model folder.
_SETTINGS = re.compile(
    r"framework|dataset|model|batch_size|max_epochs|base_lr|wd|seed|(aug|ss)_\w+|color_aug"
)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What the user knows about a checkpoint; `None` leaves it to the file.

    Attributes:
        method: SSL method, for the model card.
        conditioning: How the projector is conditioned: `add` or `mul`, which look the same.
        descriptors: Names of the descriptors that the projector takes.
        arch: timm model of the backbone.
        num_heads: Attention heads of a ViT.
        prefix: What the names of the backbone's weights begin with.
        data: Pretraining data, a key of :data:`cassle_zoo.specs.DATASETS`; says how images are
            prepared.
        size: Height and width of the images in pixels.
        mean: Per-channel mean subtracted from images in [0, 1].
        std: Per-channel standard deviation that they are divided by.
        license: SPDX identifier of the licence of the weights.

    Raises:
        UnknownNameError: If there is no such data.
        ConfigError: If a number is out of its range.
    """

    method: str | None = None
    conditioning: str | None = None
    descriptors: tuple[str, ...] | None = None
    arch: str | None = None
    num_heads: int | None = None
    prefix: str | None = None
    data: str | None = None
    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    license: str = "unknown"

    def __post_init__(self) -> None:
        """Check every field that is not checked where it is used."""
        if self.data is not None and self.data not in DATASETS:
            raise unknown_name("data", self.data, DATASETS)
        if self.size is not None and self.size < 1:
            raise ConfigError(f"size must be at least 1 pixel, got {self.size}.")
        if self.std is not None and min(self.std) <= 0:
            raise ConfigError(f"std must be positive, got {self.std}.")


@dataclass(frozen=True, kw_only=True)
class IdentifiedCheckpoint:
    """What is known of a checkpoint.

    Attributes:
        format: Which code wrote it, in words.
        method: SSL method.
        backbone: The backbone under timm's names.
        projector: The projector with its weights, if the format is known to have one.
        training: What is known of the training, by name.
        notes: What was assumed, in sentences.
        dropped: What else the checkpoint holds.
    """

    format: str
    method: str
    backbone: IdentifiedBackbone
    projector: ConditionedProjector | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...]
    dropped: tuple[str, ...]

    def in_words(self) -> str:
        """Say what the model is, on one line."""
        backbone = self.backbone
        args = ", ".join(f"{key}={value}" for key, value in backbone.model_args.items())
        words = f"{backbone.timm_arch}{f' ({args})' if args else ''}, {self.method}"
        if self.projector is None:
            return f"{words}, no projector"
        config = self.projector.config
        omega = f" on {', '.join(config.descriptors)}" if config.descriptors else ""
        return f"{words}, projector conditioned by {config.conditioning}{omega}"


def identify(
    checkpoint: Any, args: Mapping[str, Any], name: str, options: ConvertOptions
) -> IdentifiedCheckpoint:
    """Work out what a checkpoint is.

    Args:
        checkpoint: Content of the file.
        args: Content of args.json beside it; empty if there is none.
        name: Name given to the model.
        options: What else is known.

    Raises:
        CheckpointError: If it is not understood, or contradicts what is said about it.
    """
    if is_official(checkpoint):
        found = _official(checkpoint, args, name, options)
    else:
        found = _foreign(checkpoint, name, options)
    base = name.partition(".")[0]
    arch = next((a for a in BACKBONES if base.startswith(f"{a}_")), None)
    if arch is not None and BACKBONES[arch].timm_arch != found.backbone.timm_arch:
        raise CheckpointError(
            f"the name {name} says {arch}, but the backbone is {found.backbone.timm_arch}."
        )
    projector = found.projector
    if "_cassle_" in name and projector and projector.config.conditioning == "none":
        raise CheckpointError(
            f"the name {name} says CASSLE, but the projector is not conditioned; leave out "
            "'_cassle'."
        )
    return found


def _official(
    checkpoint: dict[str, Any], args: Mapping[str, Any], name: str, options: ConvertOptions
) -> IdentifiedCheckpoint:
    backbone = identify_backbone(
        checkpoint["backbone"], arch=options.arch, num_heads=options.num_heads, mocov3=True
    )
    projector, notes = read_projector(
        checkpoint["projector"],
        int(backbone.model.num_features),  # type: ignore[arg-type]
        conditioning=options.conditioning,
        descriptors=options.descriptors,
        args=args,
    )
    method, method_notes = choose_method(
        projector.config,
        has_predictor=bool(checkpoint.get("predictor")),
        option=options.method,
        args=args,
        name=name,
    )
    settings = {key: value for key, value in args.items() if _SETTINGS.fullmatch(key)}
    trainer = checkpoint.get("trainer")
    iterations = trainer.get("iteration") if isinstance(trainer, dict) else None
    others = [k for k, value in checkpoint.items() if k not in ("backbone", "projector") and value]
    return IdentifiedCheckpoint(
        format="the paper's code (gmum/CASSLE)",
        method=method,
        backbone=backbone,
        projector=projector,
        training={
            "iterations": iterations if isinstance(iterations, int) and iterations else None,
            "config": {"args.json": settings} if settings else None,
        },
        notes=(*backbone.notes, *notes, *method_notes),
        dropped=(*backbone.dropped, *others),
    )


def _foreign(checkpoint: Any, name: str, options: ConvertOptions) -> IdentifiedCheckpoint:
    if options.conditioning is not None or options.descriptors is not None:
        raise CheckpointError(
            "--conditioning and --descriptors describe a projector, but only the checkpoints of "
            "the paper's code, with 'backbone' and 'projector', have one that can be converted."
        )
    found = find_weights(checkpoint, prefix=options.prefix)
    backbone = identify_backbone(
        found.state,
        arch=options.arch,
        num_heads=options.num_heads,
        mocov3=found.method == "mocov3",
    )
    return IdentifiedCheckpoint(
        format=found.format,
        method=options.method or found.method or method_in_name(name) or "unknown",
        backbone=backbone,
        notes=backbone.notes,
        dropped=(*found.dropped, *backbone.dropped),
    )


def read_args(path: Path) -> Mapping[str, Any]:
    """Read `NAME.args.json` or `args.json` beside a checkpoint NAME.pth; empty if there is none.

    Raises:
        CheckpointError: If it is not a JSON object.
    """
    for beside in (path.with_suffix(".args.json"), path.with_name("args.json")):
        if beside.is_file():
            try:
                return read_json(beside)
            except ValueError as error:
                raise CheckpointError(
                    f"{beside} must hold the arguments by name, as a JSON object ({error})."
                ) from error
    return {}
