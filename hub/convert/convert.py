"""Turns checkpoints of other training codes into model folders.

Read are the files of the paper's code, with their projector, and the backbones of solo-learn,
lightly, and Facebook's MoCo. What a file does not say is asked for, or assumed and reported.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cassle_zoo.common.errors import CheckpointError, ConfigError
from cassle_zoo.hub.cards.card import render_card
from cassle_zoo.hub.convert.checkpoint_file import read_checkpoint
from cassle_zoo.hub.convert.identify import ConvertOptions, Understood, read_args, understand
from cassle_zoo.hub.convert.official import OfficialProjector
from cassle_zoo.hub.export import check_dtype
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.specs import DATASETS, ModelSpec
from cassle_zoo.store.artifact import make_config, save_model_folder
from cassle_zoo.store.folder import file_sha256
from cassle_zoo.version import __version__

_ARGS_DATASETS = {"imagenet100": "in100", "stl10": "stl10"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What became of a checkpoint.

    Attributes:
        folder: The model folder.
        format: Which code wrote the checkpoint, in words.
        model: What the folder holds, in words.
        notes: What was assumed, in sentences.
        dropped: What of the checkpoint is not in the folder.
    """

    folder: Path
    format: str
    model: str
    notes: tuple[str, ...]
    dropped: tuple[str, ...]


def convert_checkpoint(
    path: str | Path,
    out_dir: str | Path,
    *,
    name: str,
    options: ConvertOptions | None = None,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> Conversion:
    """Write the model folder of a checkpoint; it is like that of `hub export`.

    `args.json` (or `NAME.args.json` for a checkpoint `NAME.pth`) beside the file is read if there
    is one. Nothing in the file is run.

    Args:
        path: The checkpoint.
        out_dir: Folder to write.
        name: Name of the model, with or without tag; `ARCH_cassle_METHOD.TAG` by convention. A tag
            of :data:`cassle_zoo.specs.DATASETS` says how images are prepared.
        options: What else is known about the checkpoint.
        dtype: Type of the weights on disk, float32 or float16.
        overwrite: Whether to replace a model folder that exists.

    Raises:
        CheckpointError: If the file is unsafe, damaged, or not understood.
        ModelFolderError: If a weight is not finite or does not fit `dtype`, or `out_dir` is not empty.
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
        found = understand(checkpoint, args, name, options)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    spec, notes = _spec(name, found, args, options)
    training: dict[str, Any] = {
        "source": found.format,
        "source_file": path.name,
        "source_sha256": file_sha256(path),
        **found.training,
        "assumed": "; ".join((*found.notes, *notes)) or None,
        "left_out": ", ".join(found.dropped) or None,
        "command": f"cassle-zoo hub convert {path.name} --name {name} -o DIR",
        "cassle_zoo": __version__,
    }
    if spec.data:
        training = {"data": spec.data, **training}
    config = make_config(
        spec,
        found.backbone.model,
        projector=None if found.projector is None else found.projector.config,
        training={key: value for key, value in training.items() if value is not None},
    )
    if found.projector is None:
        del config["pretrained_cfg"]["paper_ids"]  # the paper has no part in it
    folder = save_model_folder(
        out_dir,
        config=config,
        backbone_state=_floats(found.backbone.state),
        projector=None if found.projector is None else _build(found.projector),
        dtype=dtype,
        card=str(render_card(config)),
        finish=write_reference,
        overwrite=overwrite,
    )
    return Conversion(
        folder=folder,
        format=found.format,
        model=found.in_words(),
        notes=(*found.notes, *notes),
        dropped=found.dropped,
    )


def _spec(
    name: str, found: Understood, args: Mapping[str, Any], options: ConvertOptions
) -> tuple[ModelSpec, tuple[str, ...]]:
    base, _, tag = name.partition(".")
    stated = _ARGS_DATASETS.get(str(args.get("dataset")))
    data = options.data or (tag if tag in DATASETS else stated)
    notes = []
    if data is None and None in (options.mean, options.std):
        notes.append("images are normalised as for ImageNet (else give --data or --mean, --std)")
    prepared = DATASETS[data or "in100"]
    fixed = found.backbone.model_args.get("img_size", 224)
    is_fixed = getattr(found.backbone.model, "pretrained_cfg", {}).get("fixed_input_size", False)
    size = fixed if is_fixed else options.size or prepared.input_size[-1]
    backbone = found.backbone
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
    return spec, tuple(notes)


def _floats(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _build(projector: OfficialProjector) -> ConditionedProjector:
    with torch.device("meta"):
        module = ConditionedProjector(projector.config)
    module.load_state_dict(_floats(projector.state), assign=True)
    return module
