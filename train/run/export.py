"""The export of a run for `hub export`: its weights, and how they were made."""

import dataclasses
from pathlib import Path
from typing import Any

from safetensors.torch import save

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.files import write_bytes
from cassle_zoo.records import BACKBONE_FILE, EXPORT_FILE, PROJECTOR_FILE, RunExport, code_version
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods import Method
from cassle_zoo.train.run.fingerprint import Fingerprint
from cassle_zoo.zoo.names import public_settings, resolve_arch


def check_folder(folder: Path) -> None:
    """Check, before a run, that `folder` can be written at its end.

    Raises:
        ConfigError: If something else has that name.
    """
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise ConfigError(
            f"{str(folder)!r} is a file or a broken link, but the finished model goes into a "
            "folder of that name; remove it, or use another --out."
        )


def is_written(folder: Path) -> bool:
    """Return whether :func:`write` has completed `folder`."""
    return all((folder / name).is_file() for name in (BACKBONE_FILE, PROJECTOR_FILE, EXPORT_FILE))


def write(folder: Path, method: Method, export: RunExport) -> None:
    """Write backbone and projector in float32, then their description."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in ((BACKBONE_FILE, method.backbone), (PROJECTOR_FILE, method.projector)):
        state = {key: value.contiguous().cpu() for key, value in module.state_dict().items()}
        write_bytes(folder / name, save(state), sync=True)  # save_file would ignore the umask
    export.save(folder)


def describe(
    method: Method,
    config: TrainConfig,
    steps: int,
    total: int,
    *,
    command: str | None = None,
    images: Fingerprint | None = None,
) -> RunExport:
    """Describe the weights of a run.

    Args:
        method: The trained method.
        config: All settings.
        steps: Optimiser steps done.
        total: Optimiser steps of the whole run.
        command: The command line that started the run.
        images: Which images it was trained on.
    """
    augment = config.augment
    timm_arch, model_args = resolve_arch(config.arch, augment.size, augment.channels)
    training = {"config": public_settings(config.to_dict()), "steps": steps, **code_version()}
    if (start := method.starting_weights) is not None:
        training["init"] = dataclasses.asdict(start)
    if total > steps:
        training["total_steps"] = total
    if images is not None:
        training["images"] = images
    if command is not None:
        training["command"] = command
    return RunExport(
        name=config.name,
        method=config.method.name,
        timm_arch=timm_arch,
        model_args=model_args,
        projector=method.projector.config.to_dict(),
        input_size=(augment.channels, augment.size, augment.size),
        mean=augment.mean,
        std=augment.std,
        training=training,
        interpolation="bicubic" if start is None else start.interpolation,
    )


def with_hash(images: Fingerprint, dataset: Any) -> Fingerprint:
    """Return `images` with the hash of their content, if the dataset is published with one."""
    try:
        return {**images, "sha256": getattr(dataset, "sha256", None)}
    except (DataError, OSError):  # an image cannot be read
        return images
