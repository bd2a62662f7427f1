"""Reads safetensors files that anybody may have written."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.store.folder import require_file


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a safetensors file, by name, without reading them.

    Raises:
        ModelFolderError: If the file is missing or not a safetensors file.
    """
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelFolderError(_damaged(path, error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ModelFolderError: If the file is missing or not a safetensors file.
    """
    require_file(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelFolderError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is damaged or not a safetensors file ({error}); get the file again."
