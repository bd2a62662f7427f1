"""What a finished run leaves for `hub export`: its weights, and how they came about."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save

from cassle_zoo.errors import ConfigError
from cassle_zoo.train.backbone import resolve_arch
from cassle_zoo.train.checkpoint import write_json
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods import Method

BACKBONE_FILE = "backbone.safetensors"
PROJECTOR_FILE = "projector.safetensors"
EXPORT_FILE = "export.json"


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


def write(
    folder: Path, method: Method, config: TrainConfig, *, steps: int, command: str | None = None
) -> None:
    """Write backbone and projector in float32, and `export.json`, which is written last."""
    arch = resolve_arch(config.arch, config.augment.size)
    training = {"config": _public(config), "steps": steps, **code_version()}
    if command is not None:
        training["command"] = command
    folder.mkdir(exist_ok=True)
    for name, module in ((BACKBONE_FILE, method.backbone), (PROJECTOR_FILE, method.projector)):
        state = {key: value.contiguous().cpu() for key, value in module.state_dict().items()}
        temporary = folder / f".{name}.tmp"
        temporary.write_bytes(save(state))  # save_file would ignore the umask
        temporary.replace(folder / name)
    write_json(
        folder / EXPORT_FILE,
        {
            "name": config.name,
            "method": config.method.name,
            "timm_arch": arch.timm_arch,
            "model_args": arch.model_args,
            "projector": method.projector.config.to_dict(),
            "input_size": [3, config.augment.size, config.augment.size],
            "mean": list(config.augment.mean),
            "std": list(config.augment.std),
            "training": training,
        },
    )


def code_version() -> dict[str, Any]:
    """Return the versions of the code and libraries, and the git commit if it runs from a clone."""
    here = Path(__file__).resolve().parent
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cassle_zoo": metadata.version("cassle-zoo"),
        "commit": git.stdout.strip() if git.returncode == 0 else None,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def _public(config: TrainConfig) -> dict[str, Any]:
    """Return the settings without the user's paths."""
    values = config.to_dict()
    values["data"]["root"] = Path(config.data.root).name
    return values
