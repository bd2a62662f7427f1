"""What a finished run leaves for `hub export`: its weights, and how they came about."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import write_bytes, write_json
from cassle_zoo.train.backbone import resolve_arch
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods import Method
from cassle_zoo.version import __version__

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


def is_written(folder: Path) -> bool:
    """Return whether :func:`write` has come to its end in `folder`."""
    return all((folder / name).is_file() for name in (BACKBONE_FILE, PROJECTOR_FILE, EXPORT_FILE))


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
        write_bytes(folder / name, save(state), sync=True)  # save_file would ignore the umask
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
        sync=True,
    )


def code_version() -> dict[str, Any]:
    """Return the versions of the code and libraries, and the git commit if it runs from a clone."""
    return {
        "cassle_zoo": __version__,
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def _commit(root: Path) -> str | None:
    """Return the commit of a clone; `None` of an installed package, also within another clone."""
    if not (root / ".git").exists():
        return None
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        git = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or not its clone
        return None
    return git.stdout.strip()


def _public(config: TrainConfig) -> dict[str, Any]:
    """Return the settings without the user's paths."""
    values = config.to_dict()
    values["data"]["root"] = Path(config.data.root).name
    return values
