"""The model folder on disk: its files, their hashes and its config.json. Needs no torch.

`cassle_zoo.store.artifact` reads and writes the tensors.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import ChecksumError, ModelFolderError
from cassle_zoo.common.files import read_json
from cassle_zoo.specs import MODEL_SPECS, ModelSpec
from cassle_zoo.store.config import WrongConfigError, check_config

MODEL_FILE = "model.safetensors"
PROJECTOR_FILE = "projector.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
REFERENCE_FILE = "reference.safetensors"
FOLDER_FILES = (MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE, REFERENCE_FILE, CARD_FILE)
LOCAL_PREFIX = "local-dir:"

WEIGHTS_ROOT = Path(__file__).parents[1] / "weights"


def local_folder(name: str) -> Path | None:
    """Return the folder that a `local-dir:DIR` name means, or `None` for any other name."""
    if not name.startswith(LOCAL_PREFIX):
        return None
    folder = name.removeprefix(LOCAL_PREFIX)
    if not folder:
        raise ModelFolderError(f"{name!r} names no folder; write 'local-dir:PATH'.")
    return Path(folder).expanduser()


def bundled_folder(spec: ModelSpec) -> Path:
    """Return where the package keeps the weights of a released model."""
    return WEIGHTS_ROOT / spec.full_name


def how_to_get(spec: ModelSpec) -> str:
    """Say how to make the weights of a model that nobody has published."""
    released = [name for name, other in MODEL_SPECS.items() if other.released]
    return (
        f"Nobody has published weights of {spec.full_name!r}. Train them with `cassle-zoo train "
        f"{spec.full_name} --data PATH --out RUN` and package them with `cassle-zoo hub export RUN "
        f"-o DIR`, or convert the authors' file with `cassle-zoo hub convert FILE --name "
        f"{spec.full_name} -o DIR`; then load 'local-dir:DIR'. Or build the untrained model with "
        f"pretrained=False. "
        f"Published: {', '.join(released) or 'none'}."
    )


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(
    folder: str | Path,
    sha256: Mapping[str, str],
    fix: str = "Reinstall cassle-zoo or restore the file.",
) -> None:
    """Check that files have the published content.

    Args:
        folder: Where the files lie.
        sha256: Expected SHA-256 by file name.
        fix: What the user can do about it, for the message.

    Raises:
        ModelFolderError: If a file is missing, or a name would leave the folder.
        ChecksumError: If the content of a file differs.
    """
    for name, expected in sha256.items():
        if name in (".", "..") or Path(name).name != name:
            raise ModelFolderError(f"{name!r} is not a plain file name, so it is not read.")
        path = Path(folder) / name
        if not path.is_file():
            raise ModelFolderError(f"{path} is missing. {fix}")
        found = file_sha256(path)
        if found != expected.lower():
            raise ChecksumError(
                f"{path} is not the published file: its sha256 is {found}, expected {expected}. "
                f"It is damaged or was changed. {fix}"
            )


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read and check the config.json of a model folder.

    Args:
        folder: The model folder.

    Returns:
        timm's configuration, with ours under the key `cassle_zoo`.

    Raises:
        ModelFolderError: If it is missing, malformed, of another format version, or contradicts
            itself.
    """
    path = Path(folder) / CONFIG_FILE
    require_file(path)
    try:
        config = read_json(path)
    except ValueError as error:
        raise ModelFolderError(f"{path} is not a JSON object ({error}). {FIX}") from error
    if "cassle_zoo" not in config:
        raise ModelFolderError(
            f"{path}: the key cassle_zoo is missing; other models are loaded with "
            "timm.create_model."
        )
    try:
        check_config(config)
    except WrongConfigError as error:
        raise ModelFolderError(f"{path}: {error} {FIX}") from None
    return dict(config)


FIX = (
    "Get the folder again from where it came, or write it anew with `cassle-zoo hub export RUN -o "
    "DIR`."
)
"""What errors about a damaged model folder end with."""


def require_file(path: Path) -> None:
    """Check that a file of a model folder is there.

    Raises:
        ModelFolderError: If it, or the folder, is missing.
    """
    if path.is_file():
        return
    folder = path.parent
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ModelFolderError(f"{folder} {what}, so it holds no {path.name}. Check the path.")
    if path.name == CONFIG_FILE:
        raise ModelFolderError(
            f"{path} is missing, so {folder} is not a model folder. `cassle-zoo hub export RUN -o "
            "DIR`, `hub convert` and `hub pull` write such folders."
        )
    raise ModelFolderError(f"{path} is missing. {FIX}")
