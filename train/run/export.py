"""The export of a run for `hub export`: its weights, and how they were made."""

from pathlib import Path
from typing import Any

from safetensors.torch import save

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import write_bytes
from cassle_zoo.records import (
    BACKBONE_FILE,
    EXPORT_FILE,
    PROJECTOR_FILE,
    RunExport,
    code_version,
)
from cassle_zoo.train.backbone import resolve_arch
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods import Method

SNAPSHOTS = "snapshots"
"""Folder of a run with one export per epoch that was asked for."""


def check_folder(folder: Path) -> None:
    """Check, before a run, that its end can write `folder`.

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


def write(
    folder: Path, method: Method, config: TrainConfig, steps: int, command: str | None = None
) -> None:
    """Write backbone and projector in float32, then :class:`~cassle_zoo.records.RunExport`."""
    augment = config.augment
    timm_arch, model_args = resolve_arch(config.arch, augment.size, augment.channels)
    training = {"config": _public(config), "steps": steps, **code_version()}
    if command is not None:
        training["command"] = command
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in ((BACKBONE_FILE, method.backbone), (PROJECTOR_FILE, method.projector)):
        state = {key: value.contiguous().cpu() for key, value in module.state_dict().items()}
        write_bytes(folder / name, save(state), sync=True)  # save_file would ignore the umask
    RunExport(
        name=config.name,
        method=config.method.name,
        timm_arch=timm_arch,
        model_args=model_args,
        projector=method.projector.config.to_dict(),
        input_size=(augment.channels, augment.size, augment.size),
        mean=augment.mean,
        std=augment.std,
        training=training,
    ).save(folder)


def _public(config: TrainConfig) -> dict[str, Any]:
    """Return the settings without the user's paths."""
    values = config.to_dict()
    values["data"]["root"] = Path(config.data.root).name
    return values
