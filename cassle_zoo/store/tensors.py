"""The tensors of a model folder: safetensors files, and checks that they fit a module.

Weights are loaded completely or not at all; the checks here close the gaps that timm's and torch's
own leave. The files may come from anybody.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.common.files import named_path, to_json
from cassle_zoo.store.folder import (
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    PROJECTOR_FILE,
    new_folder,
    parse_config,
    require_file,
)

if TYPE_CHECKING:
    from cassle_zoo.projector import ConditionedProjector


def tensor_names(path: Path) -> frozenset[str]:
    """Return the names of the tensors of a safetensors file, without reading them.

    Raises:
        ModelFolderError: If the file is missing or not a safetensors file.
    """
    with _readable(path), safe_open(path, framework="pt") as file:
        return frozenset(file.keys())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ModelFolderError: If the file is missing or not a safetensors file.
    """
    with _readable(path):
        return load_file(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    require_file(path)
    try:
        yield
    except SafetensorError as error:
        raise ModelFolderError(
            f"{path} is damaged or not a safetensors file ({error}); get the file again."
        ) from error


def layer_prefixes(cfg: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the prefixes of weights of the layers that timm's configuration names under `key`."""
    layers = cfg.get(key) or ()
    return tuple(f"{layer}." for layer in ((layers,) if isinstance(layers, str) else layers))


class CopiedTensors(TorchFunctionMode):
    """Notes which tensors others are copied into, as loading weights does."""

    def __init__(self) -> None:
        super().__init__()
        self._addresses: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.copy_:
            self._addresses.add(args[0].data_ptr())
        return func(*args, **(kwargs or {}))

    def names(self, model: nn.Module) -> list[str]:
        """Return the names of a model's weights that are among them.

        So are empty ones, and BatchNorms' counters of batches, which old PyTorch lacks.
        """
        return [
            name
            for name, value in model.state_dict().items()
            if not value.numel()
            or value.data_ptr() in self._addresses
            or name.endswith("num_batches_tracked")
        ]


def check_backbone_keys(
    keys: Iterable[str], model: nn.Module, *, is_part: bool = False, source: str = ""
) -> None:
    """Check that weights are exactly those of a timm model without its classifier.

    Args:
        keys: Names of the weights.
        model: The timm model that they are loaded into.
        is_part: Whether it may lack layers, as some of timm's feature extractors do.
        source: What holds the weights, for the message.

    Raises:
        ModelFolderError: If names are missing or unexpected.
    """
    cfg: Any = model.pretrained_cfg
    heads = layer_prefixes(cfg, "classifier")
    expected = {key for key in model.state_dict() if not key.startswith(heads)}
    given = set(keys)
    wrong = {"missing": expected - given, "unexpected": given - expected if not is_part else set()}
    parts = [f"{len(k)} {what}: {', '.join(sorted(k)[:5])}" for what, k in wrong.items() if k]
    if parts:
        raise ModelFolderError(
            f"The weights{source and f' of {source}'} do not fit the model ({'; '.join(parts)}). "
            "Weights are loaded completely or not at all; omit arguments that change the "
            "architecture, or use pretrained=False."
        )


def check_fit(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Check that weights fit a module exactly; the module may be on the meta device.

    Args:
        module: The module to be loaded.
        state: The weights.
        path: Their file, for the message.

    Raises:
        ModelFolderError: If a name or a shape differs.
    """
    expected, found = (
        {key: tuple(value.shape) for key, value in values.items()}
        for values in (module.state_dict(), state)
    )
    wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    if wrong:
        shown = "; ".join(
            f"{k} is {found.get(k, 'missing')}, expected {expected.get(k, 'nothing')}"
            for k in wrong[:3]
        )
        raise ModelFolderError(f"{path} does not fit its configuration: {shown}.")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that must fit a module exactly; see :func:`check_fit`.

    torch alone would accept BatchNorms without `num_batches_tracked`.
    """
    check_fit(module, state, path)
    module.load_state_dict(state)


def state_sha256(model: nn.Module, *, without: tuple[str, ...] = ()) -> str:
    """Return a hash of all parameters and buffers: their names, types, shapes and bytes.

    Args:
        model: The module.
        without: Prefixes of names that are left out.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(without):
            _add(digest, name, value)
    return digest.hexdigest()


def structure_sha256(model: nn.Module) -> str:
    """Return a hash of what the state does not show: modules and their settings.

    It covers their names, types, and attributes with plain values, such as the number of heads or
    the kind of pooling.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        found = {key: _setting(value) for key, value in vars(module).items() if key[0] != "_"}
        found = {key: value for key, value in found.items() if value and key != "training"}
        digest.update(f"{name} {type(module).__qualname__} {sorted(found.items())}\n".encode())
    return digest.hexdigest()


def _setting(value: Any) -> str:
    """Return a plain value, or a function's name, as text; empty for anything else."""
    if isinstance(value, str | int | float | None):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_setting, value))})"
    if isinstance(value, partial):
        named = sorted((key, _setting(own)) for key, own in value.keywords.items())
        return f"{_setting(value.func)} {_setting(value.args)} {named}"
    return str(getattr(value, "__qualname__", ""))


def _add(digest: Any, name: str, value: Any) -> None:
    """Add a value of a model's state, which in quantised models need not be a tensor."""
    if isinstance(value, tuple):
        for part in value:
            _add(digest, name, part)
    elif isinstance(value, Tensor):
        value = value.dequantize() if value.is_quantized else value
        data = value.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.flatten().view(torch.uint8).numpy().tobytes())
    else:
        digest.update(f"{name} {value!r}\n".encode())


def save_model_folder(
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    backbone_state: Mapping[str, Tensor],
    projector: "ConditionedProjector | None",
    dtype: torch.dtype | None = None,
    card: str | None = None,
    finish: Callable[[Path], object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        folder: Where to; its parents are created.
        config: From :func:`cassle_zoo.zoo.registry.make_config`.
        backbone_state: Weights under timm's keys.
        projector: The trained projector, if there is one.
        dtype: Floating-point type on disk; `None` for each tensor's own.
        card: Text of README.md.
        finish: Called with the folder before it is moved into place; may add files computed from
            the others.
        overwrite: Whether to replace a model folder that exists.

    Returns:
        The folder.

    Raises:
        ModelFolderError: If the folder is not empty (and `overwrite` is not set, or it holds files
            that do not belong to a model folder), a weight is not finite or too large for `dtype`,
            or the configuration is invalid.
        ConfigError: If `folder` is empty.
    """
    folder = named_path(folder, "folder").resolve()
    states = {MODEL_FILE: backbone_state}
    if projector is not None:
        states[PROJECTOR_FILE] = projector.state_dict()
    with new_folder(folder, overwrite=overwrite) as staged:
        files = {
            file: save({k: _on_disk(k, v, dtype, file) for k, v in state.items()}, {"format": "pt"})
            for file, state in states.items()
        }
        files[CONFIG_FILE] = to_json(config).encode()
        if card is not None:
            files[CARD_FILE] = card.encode()
        parse_config(files[CONFIG_FILE], folder / CONFIG_FILE)
        for name, content in files.items():
            (staged / name).write_bytes(content)
        if finish is not None:
            finish(staged)
    return folder


def _on_disk(key: str, value: Tensor, dtype: torch.dtype | None, file: str) -> Tensor:
    value = value.detach().cpu()
    if not value.is_floating_point():
        return value.clone().contiguous()
    if not value.isfinite().all():
        raise ModelFolderError(f"{file}: {key!r} holds NaN or infinity; the training diverged.")
    # A copy, because safetensors refuses tensors that share memory.
    cast = value.to(dtype or value.dtype, copy=True).contiguous()
    if not cast.isfinite().all():
        raise ModelFolderError(
            f"{file}: {key!r} reaches {value.abs().max().item():.6g}, beyond the range of {dtype}; "
            "store it in float32."
        )
    return cast
