"""Model folders from checkpoint files, whatever code wrote them: see `cassle_zoo.checkpoints`."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cassle_zoo.checkpoints.identify import CheckpointFacts, IdentifiedCheckpoint, identify
from cassle_zoo.common.errors import ConfigError, unknown_name
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.cards.card import render_card
from cassle_zoo.hub.export import check_dtype
from cassle_zoo.hub.provenance import data_of, with_licenses
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.records import training_settings
from cassle_zoo.specs import ALLOWED_NAME, DATASETS, ModelSpec
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.version import __version__
from cassle_zoo.zoo.registry import make_config
from cassle_zoo.zoo.width import feature_width


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(CheckpointFacts):
    """Facts about a checkpoint and its images; `None` leaves one to the file.

    Attributes:
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

    data: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    license: str = "unknown"

    def __post_init__(self) -> None:
        """Check every field that is not checked where it is used."""
        if self.data is not None and self.data not in DATASETS:
            raise unknown_name("data", self.data, DATASETS)
        if self.size is not None and self.size < 1:
            raise ConfigError(f"size must be at least 1 pixel, got {self.size}.")
        if self.std is not None and min(self.std) <= 0:
            raise ConfigError(f"std must be positive, got {self.std}.")


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
        dtype: Type of the weights on disk: float32, float16 or bfloat16.
        overwrite: Whether to replace a model folder that exists.

    Returns:
        The identified checkpoint, with all assumptions.

    Raises:
        CheckpointError: If the file is unsafe, damaged, or not understood, or contradicts `name`.
        ModelFolderError: If a weight is not finite or does not fit `dtype`, or `out_dir` is not
            empty.
        ConfigError: If a name or an option has a wrong value.
    """
    options = options or ConvertOptions()
    check_dtype(dtype)
    if not ALLOWED_NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} must be letters, digits, '_', '-' and '.' only.")
    path = Path(path)
    found = identify(path, options, name=name)
    spec, assumed = _spec(name, found, options)
    notes = (*found.notes, *assumed)
    training: dict[str, Any] = {
        "data": spec.data or None,
        "source": found.format,
        "source_file": path.name,
        "source_sha256": sha256(path),
        **found.training,
        "assumed": "; ".join(notes) or None,
        "left_out": ", ".join(found.dropped) or None,
        "command": _command(path.name, name, options, dtype),
        "cassle_zoo": __version__,
    }
    if options.data is None and "data" in training_settings(training):  # a run of ours
        training["data"] = data_of(name, training)
    projector = found.projector
    config = make_config(
        spec,
        found.backbone.model,
        projector=None if projector is None else projector.config,
        training=with_licenses({k: value for k, value in training.items() if value is not None}),
    )
    if not found.is_of_the_paper:
        del config["pretrained_cfg"]["paper_ids"]  # it has nothing to do with the paper
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


def _command(file: str, name: str, options: ConvertOptions, dtype: torch.dtype) -> str:
    """Return the command that repeats a conversion."""
    words = ["cassle-zoo", "hub", "convert", file, "--name", name, "-o", "DIR"]
    if dtype != torch.float32:
        words += ["--dtype", str(dtype).removeprefix("torch.")]
    for field in dataclasses.fields(options):
        if (value := getattr(options, field.name)) != field.default:
            values = value if isinstance(value, tuple | list) else (value,)
            words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def _spec(
    name: str, found: IdentifiedCheckpoint, options: ConvertOptions
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return the entry for the model, and the assumptions made for it."""
    base, _, tag = name.partition(".")
    if options.data is None and tag in DATASETS and found.data not in (None, tag):
        raise ConfigError(
            f"the name {name!r} says {tag}, but the settings beside the checkpoint say "
            f"{found.data}; give another name, or --data."
        )
    data = options.data or (tag if tag in DATASETS else found.data)
    prepared = DATASETS[data or "in100"]
    mean, std = options.mean or found.mean, options.std or found.std
    assumed = []
    if data is None and None in (mean, std):
        assumed.append("images are normalised as for ImageNet (else give --data or --mean, --std)")
    mean, std = mean or prepared.mean, std or prepared.std
    backbone = found.backbone
    channels = backbone.model_args.get("in_chans", 3)
    if not len(mean) == len(std) == channels:
        raise ConfigError(
            f"the backbone takes images of {channels} channels, so --mean and --std must be "
            f"{channels} numbers each, not {mean} and {std}."
        )
    own: Any = backbone.model.pretrained_cfg
    if own.get("fixed_input_size", False):
        size = backbone.model_args.get("img_size", own["input_size"][-1])
        if options.size not in (None, size):
            raise ConfigError(
                f"--size says {options.size}, but the weights are for images of {size} px; leave "
                "it out."
            )
    else:
        size = options.size or found.size or prepared.input_size[-1]
        if data is None and (options.size or found.size) is None:
            assumed.append(f"images have {size} px (else give --size)")
    input_size = (channels, size, size)
    spec = ModelSpec(
        name=base,
        tag=tag,
        arch=backbone.timm_arch,
        timm_arch=backbone.timm_arch,
        model_args=backbone.model_args,
        method=found.method,
        conditioned=found.projector is not None and found.projector.config.conditioning != "none",
        input_size=input_size,
        mean=mean,
        std=std,
        interpolation=found.interpolation or "bicubic",
        num_features=feature_width(backbone.timm_arch, backbone.model_args, input_size),
        data=data or "",
        license=options.license,
        recipe=name,
    )
    return spec, ("; ".join(assumed),) if assumed else ()
