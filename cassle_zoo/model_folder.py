"""The model folder on disk: its files, their hashes and its config.json. Needs no torch.

`cassle_zoo.artifact` reads and writes the tensors.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cassle_zoo.descriptors import DESCRIPTOR_WIDTHS
from cassle_zoo.errors import ArtifactError, ChecksumError
from cassle_zoo.json_files import read_json
from cassle_zoo.specs import MODEL_SPECS, ModelSpec

MODEL_FILE = "model.safetensors"
PROJECTOR_FILE = "projector.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
REFERENCE_FILE = "reference.safetensors"
FOLDER_FILES = (MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE, REFERENCE_FILE, CARD_FILE)
FORMAT_VERSION = 1
LOCAL_PREFIX = "local-dir:"

WEIGHTS_ROOT = Path(__file__).parent / "weights"

# Arguments of timm.create_model that do not describe an architecture.
_LOADING_ARGS = ("checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit")

# timm fields that say where weights come from; in a model folder they lie beside config.json.
_SOURCE_FIELDS = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")


def local_folder(name: str) -> Path | None:
    """Return the folder that a `local-dir:DIR` name means, or `None` for any other name."""
    if not name.startswith(LOCAL_PREFIX):
        return None
    folder = name.removeprefix(LOCAL_PREFIX)
    if not folder:
        raise ArtifactError(f"{name!r} names no folder; write 'local-dir:PATH'.")
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
        ArtifactError: If a file is missing, or a name would leave the folder.
        ChecksumError: If the content of a file differs.
    """
    for name, expected in sha256.items():
        if name in (".", "..") or Path(name).name != name:
            raise ArtifactError(f"{name!r} is not a plain file name, so it is not read.")
        path = Path(folder) / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing. {fix}")
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
        ArtifactError: If it is missing, malformed, of another format version, or contradicts
            itself.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, so {folder} is not a model folder. {_FIX}")
    try:
        config = read_json(path)
    except ValueError as error:
        raise ArtifactError(f"{path} is not a JSON object ({error}). {_FIX}") from error
    try:
        _check_config(config)
    except _Wrong as error:
        raise ArtifactError(f"{path}: {error} {_FIX}") from None
    return dict(config)


_FIX = "Write the folder anew with `cassle-zoo hub export RUN -o DIR`."


class _Wrong(Exception):
    """What is wrong with a config.json, without the file's name."""


def _check_config(config: Any) -> None:
    if isinstance(config, dict) and "cassle_zoo" not in config:
        raise _Wrong(
            "the key cassle_zoo is missing; other models are loaded with timm.create_model."
        )
    architecture = _get(config, "architecture", str)
    if not architecture.replace("_", "").isalnum():
        raise _Wrong(f"architecture {architecture!r} is not the name of a timm model.")
    if _get(config, "num_classes", int) != 0:
        raise _Wrong(f"num_classes is {config['num_classes']}, but backbones have 0.")
    if _get(config, "num_features", int) < 1:
        raise _Wrong(f"num_features is {config['num_features']}, but must be positive.")
    cfg = _get(config, "pretrained_cfg", dict)
    outside = sorted(set(cfg) & set(_SOURCE_FIELDS))
    if outside:
        raise _Wrong(f"pretrained_cfg points outside the folder with {', '.join(outside)}.")
    for key in ("input_size", "mean", "std"):
        values = _get(cfg, key, list)
        if len(values) != 3 or not all(isinstance(v, (int, float)) for v in values):
            raise _Wrong(f"pretrained_cfg.{key} must be three numbers, not {values}.")
    _check_model_args(config.get("model_args", {}))
    _check_own(_get(config, "cassle_zoo", dict))


def _check_model_args(values: Any) -> None:
    """Check that what timm passes on to its builders does not load another file."""
    if not isinstance(values, dict):
        raise _Wrong(f"model_args must be given as dict, found {values!r}.")
    for name in values:
        if name in _LOADING_ARGS or name.startswith("pretrained"):
            raise _Wrong(f"model_args sets {name}, which no model folder may.")


def _check_own(own: dict[str, Any]) -> None:
    version = _get(own, "format_version", int)
    if version != FORMAT_VERSION:
        raise _Wrong(
            f"format_version is {version}, but this cassle_zoo reads {FORMAT_VERSION}; "
            "use the cassle_zoo version that wrote it."
        )
    for key, kind in (("name", str), ("method", str), ("training", dict)):
        _get(own, key, kind)
    descriptors = _get(own, "descriptors", list)
    if not all(isinstance(d, dict) and isinstance(d.get("name"), str) for d in descriptors):
        raise _Wrong(f"descriptors must be a list of names and widths, not {descriptors}.")
    widths = {d["name"]: d.get("width") for d in descriptors}
    for name, width in widths.items():
        if DESCRIPTOR_WIDTHS.get(name) != width:
            raise _Wrong(f"descriptor {name!r} of width {width} is unknown to this cassle_zoo.")
    if "projector" not in own:
        raise _Wrong("projector is missing; it must be null if the model has none.")
    if own["projector"] is None:
        return
    names = _get(_get(own, "projector", dict), "descriptors", list)
    if names != list(widths) or names != sorted(names):
        raise _Wrong(f"descriptors {list(widths)} contradict the projector's {names}.")


def _get(values: Any, key: str, kind: type) -> Any:
    if not isinstance(values, dict) or not isinstance(values.get(key), kind):
        found = values.get(key) if isinstance(values, dict) else values
        raise _Wrong(f"{key} must be given as {kind.__name__}, found {found!r}.")
    return values[key]
