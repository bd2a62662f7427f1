"""The model folder: reads and writes backbone, projector and config.json.

    model.safetensors      backbone, under timm's keys
    projector.safetensors  projector, if there is one
    config.json            timm's configuration, with ours under the key `cassle_zoo`
    reference.safetensors  a stored input and what the model makes of it (cassle_zoo.hub.reference)
    README.md              model card

timm reads such a folder as `local-dir:DIR` without knowing cassle_zoo.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cassle_zoo.augmentation.descriptors import DESCRIPTOR_WIDTHS
from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.specs import ModelSpec
from cassle_zoo.store.config import FORMAT_VERSION
from cassle_zoo.store.folder import (
    CARD_FILE,
    CONFIG_FILE,
    FOLDER_FILES,
    MODEL_FILE,
    PROJECTOR_FILE,
    file_sha256,
    read_config,
    verify_files,
)
from cassle_zoo.store.state_dict import check_shapes, load_strictly
from cassle_zoo.store.tensor_files import read_tensors, tensor_shapes
from cassle_zoo.zoo.registry import timm_cfg

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "MODEL_FILE",
    "PROJECTOR_FILE",
    "backbone_keys",
    "file_sha256",
    "load_backbone_state",
    "load_projector",
    "make_config",
    "read_config",
    "read_projector_config",
    "read_tensors",
    "save_model_folder",
    "verify_files",
]


def make_config(
    spec: ModelSpec,
    backbone: nn.Module,
    *,
    projector: ProjectorConfig | None,
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the content of config.json.

    Args:
        spec: Names, preprocessing and `model_args`; `sha256` is not used.
        backbone: The timm model that the weights fit.
        projector: Configuration of the projector, if there is one.
        training: How the weights were made: `recipe`, `command`, `code_version`, `config`, ...,
            JSON types.

    Returns:
        timm's configuration, with ours under the key `cassle_zoo`.
    """
    names = () if projector is None else projector.descriptors
    cfg = {k: list(v) if isinstance(v, tuple) else v for k, v in timm_cfg(spec).items()}
    return {
        "architecture": spec.timm_arch,
        "num_classes": 0,
        "num_features": backbone.num_features,
        "global_pool": pool_name(backbone),
        **({"model_args": dict(spec.model_args)} if spec.model_args else {}),
        "pretrained_cfg": {"tag": spec.tag, **cfg},
        "cassle_zoo": {
            "format_version": FORMAT_VERSION,
            "name": spec.full_name,
            "method": spec.method,
            "descriptors": [{"name": n, "width": DESCRIPTOR_WIDTHS[n]} for n in names],
            "projector": None if projector is None else projector.to_dict(),
            "training": dict(training),
        },
    }


def pool_name(backbone: nn.Module) -> str:
    """Return timm's name of how a backbone pools its features; empty if it has none."""
    pool = getattr(backbone, "global_pool", None)
    return pool if isinstance(pool, str) else str(getattr(pool, "pool_type", ""))


def save_model_folder(
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    backbone_state: Mapping[str, Tensor],
    projector: ConditionedProjector | None,
    dtype: torch.dtype | None = None,
    card: str | None = None,
    finish: Callable[[Path], object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        folder: Where to; its parents are created.
        config: What :func:`make_config` returned.
        backbone_state: Weights under timm's keys.
        projector: The trained projector, if there is one.
        dtype: Floating-point type on disk; `None` keeps each tensor's own.
        card: Text of README.md.
        finish: Called with the folder before it is put in place; may add files that are computed
            from the others.
        overwrite: Whether to replace a model folder that exists.

    Returns:
        The folder.

    Raises:
        ModelFolderError: If the folder is not empty (and `overwrite` is not set, or it holds other
            files than a model folder's), a weight is not finite or too large for `dtype`, or the
            configuration is invalid.
    """
    folder = Path(folder).resolve()
    _check_target(folder, overwrite)
    files = {MODEL_FILE: _serialise(backbone_state, dtype, MODEL_FILE)}
    if projector is not None:
        files[PROJECTOR_FILE] = _serialise(projector.state_dict(), dtype, PROJECTOR_FILE)
    files[CONFIG_FILE] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    if card is not None:
        files[CARD_FILE] = card.encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        staged.mkdir()
        for name, content in files.items():
            (staged / name).write_bytes(content)
        read_config(staged)
        if finish is not None:
            finish(staged)
        _move_into_place(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is a file; give a folder.")
    found = {path.name for path in folder.iterdir()}
    if found and not overwrite:
        raise ModelFolderError(
            f"{folder} is not empty; give another folder, or allow overwriting it."
        )
    foreign = sorted(found - set(FOLDER_FILES))
    if foreign:
        raise ModelFolderError(
            f"{folder} is not overwritten: it holds {', '.join(foreign[:5])}, which no model "
            "folder has; give another folder."
        )


def _move_into_place(staged: Path, folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        if folder.exists():
            folder.rmdir()  # os.replace onto an empty folder works on POSIX only
        os.replace(staged, folder)
        return
    old = staged.with_name(f"{staged.name}.old")
    os.replace(folder, old)
    try:
        os.replace(staged, folder)
    except OSError:
        os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _serialise(state: Mapping[str, Tensor], dtype: torch.dtype | None, file: str) -> bytes:
    return save({k: _stored(k, v, dtype, file) for k, v in state.items()}, {"format": "pt"})


def _stored(key: str, value: Tensor, dtype: torch.dtype | None, file: str) -> Tensor:
    value = value.detach().cpu()
    if not value.is_floating_point():
        return value.clone().contiguous()
    if not value.isfinite().all():
        raise ModelFolderError(f"{file}: {key!r} holds NaN or infinity; the training diverged.")
    # A copy, because safetensors refuses tensors that share memory.
    stored = value.to(dtype or value.dtype, copy=True).contiguous()
    if not stored.isfinite().all():
        raise ModelFolderError(
            f"{file}: {key!r} reaches {value.abs().max().item():.6g}, beyond the range of {dtype}; "
            "store it in float32."
        )
    return stored


def load_backbone_state(folder: str | Path) -> dict[str, Tensor]:
    """Read the backbone's weights, in the type they are stored in.

    Raises:
        ModelFolderError: If the file is missing or not a safetensors file.
    """
    return read_tensors(Path(folder) / MODEL_FILE)


def backbone_keys(folder: str | Path) -> frozenset[str]:
    """Return the names of the backbone's weights without reading them.

    Raises:
        ModelFolderError: If the file is missing or not a safetensors file.
    """
    return frozenset(tensor_shapes(Path(folder) / MODEL_FILE))


def read_projector_config(folder: str | Path) -> ProjectorConfig:
    """Read the configuration of a folder's projector.

    Raises:
        ModelFolderError: If config.json is invalid, or there is no projector.
    """
    path = Path(folder) / CONFIG_FILE
    values = read_config(folder)["cassle_zoo"]["projector"]
    if values is None:
        raise ModelFolderError(f"{path}: the model has no projector, only a backbone.")
    try:
        return ProjectorConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ModelFolderError(f"{path}: {error}") from error


def load_projector(folder: str | Path) -> ConditionedProjector:
    """Build a folder's projector with its weights, in float32.

    Raises:
        ModelFolderError: If a file is missing or invalid, or weights and configuration contradict
            each other.
    """
    config = read_projector_config(folder)
    path = Path(folder) / PROJECTOR_FILE
    shapes = tensor_shapes(path)
    # Without memory for the weights, since anybody may have written the configuration.
    with torch.device("meta"):
        check_shapes(build_projector(config, folder), shapes, path)
    projector = ConditionedProjector(config)
    load_strictly(projector, read_tensors(path), path)
    return projector


def build_projector(config: ProjectorConfig, folder: str | Path) -> ConditionedProjector:
    """Build a projector, untrained, from the configuration that a folder holds.

    Raises:
        ModelFolderError: If torch cannot build it, for example because it would not fit into memory.
    """
    try:
        return ConditionedProjector(config)
    except (RuntimeError, TypeError) as error:  # torch's for sizes that it cannot represent
        reason = " ".join(str(error).split())[:200]
        raise ModelFolderError(
            f"{Path(folder) / CONFIG_FILE}: cassle_zoo.projector cannot be built ({reason})."
        ) from error
