"""Model folders from checkpoints of other training codes.

Checkpoints of the paper's code are converted with their projector; of those of solo-learn, lightly
and Facebook's MoCo, only the backbone is. Missing facts are asked for, or assumed and reported.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cassle_zoo.common.errors import CheckpointError, ConfigError, unknown_name
from cassle_zoo.common.files import read_json, sha256
from cassle_zoo.hub.cards.card import render_card
from cassle_zoo.hub.convert.backbones import IdentifiedBackbone, find_weights, identify_backbone
from cassle_zoo.hub.convert.checkpoint_file import read_checkpoint
from cassle_zoo.hub.convert.official import (
    choose_method,
    is_official,
    method_in_name,
    read_projector,
)
from cassle_zoo.hub.export import check_dtype
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.specs import BACKBONES, DATASETS, ModelSpec
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.version import __version__
from cassle_zoo.zoo.registry import make_config

_ARGS_DATASETS = {"imagenet100": "in100", "stl10": "stl10"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Settings in args.json that describe the training; paths and the like stay out of model folders.
_SETTINGS = re.compile(
    r"framework|dataset|model|batch_size|max_epochs|base_lr|wd|seed|(aug|ss)_\w+|color_aug"
)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Facts about a checkpoint that the user knows; `None` leaves one to the file.

    Attributes:
        method: SSL method, for the model card.
        conditioning: How the projector is conditioned: `add` or `mul`, which look the same.
        descriptors: Names of the descriptors that the projector takes.
        arch: timm model of the backbone.
        num_heads: Attention heads of a ViT.
        prefix: Prefix of the names of the backbone's weights.
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
    """An identified checkpoint.

    Attributes:
        format: Which code wrote it, in words.
        method: SSL method.
        backbone: The backbone under timm's names.
        projector: The projector with its weights, if the format is known to have one.
        training: Known facts about the training, by name.
        notes: Assumptions, in sentences.
        dropped: The other contents of the checkpoint.
    """

    format: str
    method: str
    backbone: IdentifiedBackbone
    projector: ConditionedProjector | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...]
    dropped: tuple[str, ...]

    def in_words(self) -> str:
        """Return a description of the model, on one line."""
        backbone = self.backbone
        args = ", ".join(f"{key}={value}" for key, value in backbone.model_args.items())
        words = f"{backbone.timm_arch}{f' ({args})' if args else ''}, {self.method}"
        if self.projector is None:
            return f"{words}, no projector"
        config = self.projector.config
        omega = f" on {', '.join(config.descriptors)}" if config.descriptors else ""
        return f"{words}, projector conditioned by {config.conditioning}{omega}"


def convert_checkpoint(
    path: str | Path,
    out_dir: str | Path,
    *,
    name: str,
    options: ConvertOptions | None = None,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> IdentifiedCheckpoint:
    """Write the model folder of a checkpoint; it is like that of `hub export`.

    `args.json` (or `NAME.args.json` for a checkpoint `NAME.pth`) beside the file is read if there
    is one. Nothing in the file is run.

    Args:
        path: The checkpoint.
        out_dir: Folder to write.
        name: Name of the model, with or without tag; `ARCH_cassle_METHOD.TAG` by convention. A tag
            of :data:`cassle_zoo.specs.DATASETS` says how images are prepared.
        options: Other facts about the checkpoint.
        dtype: Type of the weights on disk, float32 or float16.
        overwrite: Whether to replace a model folder that exists.

    Returns:
        The identified checkpoint, with all assumptions.

    Raises:
        CheckpointError: If the file is unsafe, damaged, or not understood.
        ModelFolderError: If a weight is not finite or does not fit `dtype`, or `out_dir` is not
            empty.
        ConfigError: If a name or an option has a wrong value.
    """
    options = options or ConvertOptions()
    check_dtype(dtype)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} must be letters, digits, '_', '-' and '.' only.")
    path = Path(path)
    checkpoint = read_checkpoint(path)
    args = read_args(path)
    try:
        found = identify(checkpoint, args, name, options)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    spec, assumed = _spec(name, found, args, options)
    notes = (*found.notes, *assumed)
    training: dict[str, Any] = {
        "data": spec.data or None,
        "source": found.format,
        "source_file": path.name,
        "source_sha256": sha256(path),
        **found.training,
        "assumed": "; ".join(notes) or None,
        "left_out": ", ".join(found.dropped) or None,
        "command": f"cassle-zoo hub convert {path.name} --name {name} -o DIR",
        "cassle_zoo": __version__,
    }
    projector = found.projector
    config = make_config(
        spec,
        found.backbone.model,
        projector=None if projector is None else projector.config,
        training={key: value for key, value in training.items() if value is not None},
    )
    if projector is None:
        del config["pretrained_cfg"]["paper_ids"]  # the paper has no part in it
    state = found.backbone.state
    save_model_folder(
        out_dir,
        config=config,
        backbone_state={k: v.float() if v.is_floating_point() else v for k, v in state.items()},
        projector=projector,
        dtype=dtype,
        card=str(render_card(config)),
        finish=write_reference,
        overwrite=overwrite,
    )
    return dataclasses.replace(found, notes=notes)


def _spec(
    name: str, found: IdentifiedCheckpoint, args: Mapping[str, Any], options: ConvertOptions
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return the entry for the model, and the assumptions made for it."""
    base, _, tag = name.partition(".")
    in_args = _ARGS_DATASETS.get(str(args.get("dataset")))
    data = options.data or (tag if tag in DATASETS else in_args)
    notes: tuple[str, ...] = ()
    if data is None and None in (options.mean, options.std):
        notes = ("images are normalised as for ImageNet (else give --data or --mean, --std)",)
    prepared = DATASETS[data or "in100"]
    backbone = found.backbone
    if getattr(backbone.model, "pretrained_cfg", {}).get("fixed_input_size", False):
        size = backbone.model_args.get("img_size", 224)
    else:
        size = options.size or prepared.input_size[-1]
    spec = ModelSpec(
        name=base,
        tag=tag,
        arch=backbone.timm_arch,
        timm_arch=backbone.timm_arch,
        model_args=backbone.model_args,
        method=found.method,
        conditioned=found.projector is not None and found.projector.config.conditioning != "none",
        input_size=(3, size, size),
        mean=options.mean or prepared.mean,
        std=options.std or prepared.std,
        num_features=int(backbone.model.num_features),  # type: ignore[arg-type]
        data=data or "",
        license=options.license,
        recipe=name,
    )
    return spec, notes


def identify(
    checkpoint: Any, args: Mapping[str, Any], name: str, options: ConvertOptions
) -> IdentifiedCheckpoint:
    """Identify a checkpoint.

    Args:
        checkpoint: Content of the file.
        args: Content of args.json beside it; empty if there is none.
        name: Name given to the model.
        options: Other facts.

    Raises:
        CheckpointError: If it is not understood, or contradicts its name, args.json or the options.
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
    state, written_by, method, dropped = find_weights(checkpoint, prefix=options.prefix)
    backbone = identify_backbone(
        state, arch=options.arch, num_heads=options.num_heads, mocov3=method == "mocov3"
    )
    return IdentifiedCheckpoint(
        format=written_by,
        method=options.method or method or method_in_name(name) or "unknown",
        backbone=backbone,
        notes=backbone.notes,
        dropped=(*dropped, *backbone.dropped),
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
