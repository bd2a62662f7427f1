"""The model folder on disk: its files, their hashes, its config.json. Needs no torch.

    model.safetensors      backbone, under timm's keys
    projector.safetensors  projector, if there is one
    config.json            timm's configuration, with ours under the key `cassle_zoo`
    whitening.safetensors  whitening of features, if there is one (cassle_zoo.features.whitening)
    reference.safetensors  a stored input and what the model makes of it (cassle_zoo.hub.reference)
    README.md              model card

timm reads such a folder as `local-dir:DIR` without knowing cassle_zoo.
`cassle_zoo.store.tensors` reads and writes the tensors, `cassle_zoo.store.config` says what
config.json may hold.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import ChecksumError, ConfigError, ModelFolderError, TimmFolderError
from cassle_zoo.common.files import atomic_folder, parse_json, sha256
from cassle_zoo.records import FORMAT_VERSION
from cassle_zoo.specs import ModelSpec
from cassle_zoo.store.config import check_config

MODEL_FILE = "model.safetensors"
PROJECTOR_FILE = "projector.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
REFERENCE_FILE = "reference.safetensors"
WHITENING_FILE = "whitening.safetensors"
FOLDER_FILES = (MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE, REFERENCE_FILE, CARD_FILE)
OPTIONAL_FILES = (PROJECTOR_FILE, WHITENING_FILE)
ALLOWED_FILES = (WHITENING_FILE, *FOLDER_FILES)
"""All files that a model folder may hold; no others are downloaded or uploaded."""

_OF_TIMM = ("pretrained_cfg", "num_classes")  # beside `architecture`; older ones lack the first

WEIGHTS_ROOT = Path(__file__).parents[1] / "weights"

FIX = (
    "Get the folder again from its source, or write it again with `cassle-zoo hub export RUN -o "
    "DIR`."
)
"""What errors about a damaged model folder end with."""

FIX_PACKAGE = "Reinstall cassle-zoo or restore the file."
"""What errors about a damaged file of the package end with."""


def bundled_folder(spec: ModelSpec) -> Path:
    """Return where the package has the weights of a released model."""
    return WEIGHTS_ROOT / spec.full_name


def require_file(path: Path) -> None:
    """Raise a `ModelFolderError` if a file of a model folder, or the folder, is missing."""
    if path.is_file():
        return
    folder = path.parent
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise ModelFolderError(f"{folder} {state}, so it has no {path.name}. Check the path.")
    if path.name == CONFIG_FILE:
        raise ModelFolderError(
            f"{path} is missing, so {folder} is not a model folder. `cassle-zoo hub export RUN -o "
            "DIR`, `hub convert` and `hub pull` write such folders."
        )
    raise ModelFolderError(f"{path} is missing. {FIX}")


def refuse_link(path: Path) -> None:
    """Raise a `ModelFolderError` if a file to be written is a link, whose target would change."""
    if path.is_symlink():
        raise ModelFolderError(
            f"{path} is a link, perhaps into the Hub's cache, so it is not rewritten; get a copy "
            "with `cassle-zoo hub pull NAME -o DIR`."
        )


def verify_files(folder: str | Path, hashes: Mapping[str, str], fix: str = FIX_PACKAGE) -> None:
    """Check that files have the published content.

    Args:
        folder: Where the files are.
        hashes: Expected SHA-256 by file name.
        fix: What the user can do about it, for the message.

    Raises:
        ModelFolderError: If a file is missing, or a name would leave the folder.
        ChecksumError: If the content of a file differs.
    """
    for name, expected in hashes.items():
        if name in (".", "..") or Path(name).name != name:
            raise ModelFolderError(f"{name!r} is not a plain file name, so it is not read.")
        path = Path(folder) / name
        if not path.is_file():
            raise ModelFolderError(f"{path} is missing. {fix}")
        check_hash(path, sha256(path), expected, fix)


def check_hash(path: Path, found: str, expected: str, fix: str = FIX_PACKAGE) -> None:
    """Raise a `ChecksumError` if the SHA-256 found for a file is not the expected one."""
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
    return parse_config(path.read_bytes(), path)


def parse_config(content: bytes, path: Path, fix: str = FIX) -> dict[str, Any]:
    """Check the content of the config.json at `path`; see :func:`read_config`."""
    try:
        config = parse_json(content.decode())
    except ValueError as error:
        raise ModelFolderError(f"{path} is not a JSON object ({error}). {fix}") from error
    if "cassle_zoo" not in config:
        by_timm = "architecture" in config and not config.keys().isdisjoint(_OF_TIMM)
        kind = TimmFolderError if by_timm else ModelFolderError
        raise kind(
            f"{path}: the key cassle_zoo is missing; other models are loaded with "
            "timm.create_model."
        )
    own = config["cassle_zoo"]
    version = own.get("format_version") if isinstance(own, dict) else None
    if type(version) is int and version != FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        fix = "update cassle-zoo" if newer else f"run `cassle-zoo upgrade {path.parent}`"
        raise ModelFolderError(
            f"{path}: format_version is {version}, but this cassle-zoo reads {FORMAT_VERSION}; "
            f"{fix}."
        )
    try:
        check_config(config)
    except ConfigError as error:
        raise ModelFolderError(f"{path}: {error} {fix}") from None
    return config


@contextmanager
def new_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a model folder, whole or not at all.

    Args:
        folder: Where to; its parents are created.
        overwrite: Whether to replace a model folder that exists.

    Yields:
        An empty folder to write the files to; it becomes `folder` when the block ends.

    Raises:
        ModelFolderError: See :func:`check_target`.
    """
    folder = Path(folder).resolve()
    check_target(folder, overwrite=overwrite)
    with atomic_folder(folder) as staged:
        yield staged


def check_target(folder: str | Path, *, overwrite: bool) -> None:
    """Check that nothing is lost if a model folder is written there.

    Raises:
        ModelFolderError: If the folder is a file, or not empty and `overwrite` is not set, or it
            holds files that do not belong to a model folder.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is a file; give a folder.")
    found = {path.name for path in folder.iterdir()} - {".DS_Store"}  # of macOS's Finder
    if found and not overwrite:
        raise ModelFolderError(
            f"{folder} is not empty; give another folder, or replace it (`--overwrite`, or "
            "`--force` of `hub pull`)."
        )
    foreign = sorted(found - set(ALLOWED_FILES))
    if foreign:
        raise ModelFolderError(
            f"{folder} is not replaced: it holds {', '.join(foreign[:5])}, "
            "which does not belong to a model folder; give another folder."
        )
