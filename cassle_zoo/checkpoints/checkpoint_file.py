"""Checkpoint files of any training code, read without running anything in them.

Such files are pickles; our own trainer's have a line with their hash first. They are read with
torch's `weights_only` loader, which knows tensors and plain values and imports nothing. Settings
that Lightning, omegaconf, argparse and numpy leave in checkpoints are replaced by inert stand-ins,
so these libraries are neither needed nor run; every other type is refused.
"""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cassle_zoo.checkpoints.run_checkpoint import own_content
from cassle_zoo.common.errors import CheckpointError


class Inert:
    """Stands in for an object of another library: takes anything, stores and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_INERT = {
    "argparse": "Namespace",
    "builtins": "bool dict float int list str tuple",
    "collections": "defaultdict",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy": "dtype ndarray",
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode FloatNode IntegerNode StringNode",
    "pathlib": "PosixPath PurePosixPath WindowsPath",
    "pathlib._local": "PosixPath PurePosixPath WindowsPath",
    "pytorch_lightning.callbacks.early_stopping": "EarlyStopping",
    "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
    "typing": "Any",
}
INERT_TYPES = tuple(
    f"{module}.{name}" for module, names in _INERT.items() for name in names.split()
)
"""Types whose content is left out."""

# Lightning's hyper-parameters: a dictionary, which torch's loader fills only if it is a known one.
DICT_TYPES: tuple[str, ...] = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)

_HARMLESS = 2**30  # bytes that a tensor may have, however few of them are in the file
_IF_TRUSTED = (
    "If you trust the file, open it with the code that wrote it, and save the weights alone: "
    "torch.save(checkpoint['state_dict'], 'weights.pth')."
)


def read_checkpoint(path: str | Path) -> Any:
    """Read a file of torch.save or safetensors, or the `checkpoint.pt` of a `cassle-zoo train` run.

    Args:
        path: The file.

    Returns:
        Its content; objects of :data:`INERT_TYPES` are replaced by :class:`Inert`.

    Raises:
        CheckpointError: If the file is missing, damaged, not written by `torch.save`, or holds
            other types of objects. None of their code is run.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; give the path of a checkpoint.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged, or no safetensors file ({error}).") from None
    safe: list[Any] = [(Inert, name) for name in INERT_TYPES]
    safe += [(OrderedDict, name) for name in DICT_TYPES]
    own = own_content(path)
    try:
        with torch.serialization.safe_globals(safe):
            content = torch.load(
                path if own is None else io.BytesIO(own),
                map_location="cpu",
                weights_only=True,
                mmap=own is None and zipfile.is_zipfile(path),
            )
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from None
    except Exception as error:  # torch's reader raises whatever a damaged file leads to
        if "weights_only" in str(error):  # then torch advises running the code in the file
            raise CheckpointError(
                f"{path} is not read: it is a TorchScript archive, or in torch's old tar format, "
                f"and loading these may run code. {_IF_TRUSTED}"
            ) from None
        raise CheckpointError(
            f"{path} is damaged, or not a file written by torch.save "
            f"({type(error).__name__}: {error})."
        ) from error

    _check_tensors(content, path)
    return content


def _check_tensors(content: Any, path: Path) -> None:
    """Check that the file holds the content of every tensor, without reading that."""
    size = path.stat().st_size
    values, seen = [content], set[int]()
    while values:
        value = values.pop()
        if isinstance(value, torch.Tensor):
            # torch.save does not compress: what is larger than its file repeats a few numbers.
            if value.is_meta or value.numel() * value.element_size() > max(size, _HARMLESS):
                raise CheckpointError(
                    f"{path} holds a tensor of shape {tuple(value.shape)}, but not its content; "
                    "get the file again from its source."
                )
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # a pickle may hold itself
            values += value.values() if isinstance(value, dict) else value


def _refusal(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found is None:
        return (
            f"{path} is not read: it was not written by torch.save, or holds more than tensors and "
            f"plain values, and loading such objects may run code. {_IF_TRUSTED}"
        )
    return (
        f"{path} is not read: it refers to {found[1]}, and loading such objects may run code. Only "
        "tensors, plain values, and the settings that Lightning, omegaconf, argparse and numpy "
        f"store are read. {_IF_TRUSTED}"
    )
