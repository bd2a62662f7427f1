"""A GPU imitated on the CPU, so that tests find tensors on the wrong device without one.

Tensors "on the GPU" are tensors of the CPU whose storages are noted down. They say that they are on
`cuda:0`, what is computed from them is there, too, and mixing them with others, or giving them to
NumPy or to a generator of the CPU, raises what CUDA raises. Kernels, streams and memory are not
imitated.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
_real_device: Callable[[Tensor], torch.device] = torch._C.TensorBase.device.__get__
_real_to: Callable[..., Tensor] = torch._C.TensorBase.to
_aten: Any = torch.ops.aten
_COPIES = {_aten.copy_, _aten._to_copy, _aten._foreach_copy_}  # from one device to another
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_STRICT = {_aten.cat, _aten.stack, _aten.equal}  # refuse even scalars of the CPU


@contextlib.contextmanager
def imitated_gpu() -> Iterator[None]:
    """Imitate one GPU in this thread."""
    gpu = _Gpu()
    with pytest.MonkeyPatch.context() as patch, _Checked(gpu), _Factories(gpu) as factories:
        for name, answer in _ANSWERS.items():
            patch.setattr(torch.cuda, name, answer)
        patch.setattr(torch, "autocast", _Autocast)
        patch.setattr(torch, "Generator", lambda device=None, made=torch.Generator: made())
        for name in ("_cuda", "_accelerator"):
            check = f"{name}_graph_capture_health_check"
            patch.setattr(torch.optim.Optimizer, check, lambda _: None, raising=False)
        patch.setattr(Tensor, "device", property(gpu.device_of), raising=False)
        patch.setattr(Tensor, "is_cuda", property(lambda x: x.device == GPU), raising=False)
        to = lambda x, *args, **how: gpu.to(x, *args, **how)  # noqa: E731, PLW0108  binds
        patch.setattr(Tensor, "to", to, raising=False)
        patch.setattr(Tensor, "cpu", lambda x, **_: gpu.move(x, CPU), raising=False)
        patch.setattr(Tensor, "cuda", lambda x, *_, **__: gpu.move(x, GPU), raising=False)
        patch.setattr(Tensor, "pin_memory", lambda x, *_: x, raising=False)
        patch.setattr(Tensor, "__deepcopy__", _deepcopy)
        for name in ("numpy", "__array__"):
            patch.setattr(Tensor, name, _on_cpu(getattr(Tensor, name)), raising=False)
        backward = getattr(torch.autograd, "_engine_run_backward")  # noqa: B009  for mypy

        def run_backward(*args: Any, **kwargs: Any) -> Any:
            with factories:  # off inside `Tensor.backward`, as in any of torch's functions
                return backward(*args, **kwargs)

        patch.setattr(torch.autograd, "_engine_run_backward", run_backward)
        yield


class _Gpu:
    """Which storages are on the GPU."""

    def __init__(self) -> None:
        self.inside = False  # a function that was given tensors on the GPU
        self._storages: dict[int, StorageWeakRef] = {}  # held, so that no address is used again

    def device_of(self, x: Tensor) -> torch.device:
        real = _real_device(x)
        return GPU if real == CPU and x.untyped_storage()._cdata in self._storages else real

    def put(self, x: Tensor, device: torch.device) -> Tensor:
        storage = x.untyped_storage()
        if device == CPU:
            self._storages.pop(storage._cdata, None)
        else:
            self._storages[storage._cdata] = StorageWeakRef(storage)
        if len(self._storages) > 20_000:
            held = self._storages.items()
            self._storages = {key: ref for key, ref in held if not ref.expired()}
        return x

    def move(self, x: Tensor, device: torch.device, **how: Any) -> Tensor:
        if device not in (CPU, GPU):
            return _real_to(x, device, **how)
        if self.device_of(x) == device:
            return _real_to(x, **how) if how else x
        return self.put(_real_to(x, **{**how, "copy": True}), device)

    def to(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device = kwargs.pop("device", None)
        how = {name: value for name, value in kwargs.items() if value is not None}
        for given in args:
            if isinstance(given, Tensor):
                device, how["dtype"] = given.device, given.dtype
            elif isinstance(given, torch.dtype):
                how["dtype"] = given
            elif isinstance(given, bool):
                how["copy" if "non_blocking" in how else "non_blocking"] = given
            elif given is not None:
                device = given
        return self.move(x, x.device if device is None else named(device), **how)


def named(device: Any) -> torch.device:
    """Return a device as tensors on it name it."""
    device = torch.device(device)
    return GPU if device.type == "cuda" else device


class _Checked(TorchDispatchMode):
    """Refuses mixtures of devices, and notes down where results are."""

    def __init__(self, gpu: _Gpu) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        op, of = func.overloadpacket, self.gpu.device_of
        given = _tensors((args, kwargs))
        kwargs = dict(kwargs or {})
        device = GPU if any(of(x) == GPU for x in given) else CPU
        asked = kwargs.get("device")
        if asked is not None and named(asked) == GPU:
            kwargs["device"] = CPU
        # Without tensors it is a factory: asked for this device, or part of a function on it.
        if not given and (self.gpu.inside or (asked is not None and named(asked) == GPU)):
            device = GPU
        if op in _COPIES:
            device = of(next(iter(_tensors(args[0])), given[0]))
        elif device == GPU:
            judged = given
            if op in _INDEXING:  # whose indices may be on the CPU
                judged = _tensors([args[0], *args[2:]])
                if of(args[0]) == CPU:
                    raise RuntimeError("indices should be on the same device as the indexed tensor")
            for x in judged:
                if of(x) == CPU and (x.ndim or op in _STRICT):
                    raise RuntimeError(f"Expected all tensors to be on the same device ({func})")
        before = {x.untyped_storage()._cdata for x in given}
        result = func(*args, **kwargs)
        for x in _tensors(result) if device == GPU else ():
            if x.untyped_storage()._cdata not in before:
                self.gpu.put(x, GPU)
        return result


class _Factories(TorchFunctionMode):
    """Makes tensors where `device=` says."""

    def __init__(self, gpu: _Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        if asked is None or named(asked) not in (CPU, GPU):
            before = self.gpu.inside
            self.gpu.inside = any(x.device == GPU for x in _tensors((args, kwargs)))
            try:
                return func(*args, **kwargs)
            finally:
                self.gpu.inside = before
        device = named(kwargs.pop("device"))
        if device == GPU and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        made = func(*args, **kwargs)
        return made if made.device == device else self.gpu.put(made.clone(), device)


class _Autocast(torch.amp.autocast_mode.autocast):
    """Autocast of the CPU in place of the GPU's."""

    def __init__(self, kind: str, dtype: torch.dtype | None = None, **options: Any) -> None:
        super().__init__("cpu" if kind == "cuda" else kind, dtype or torch.bfloat16, **options)


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _deepcopy(x: Tensor, memo: dict[int, Any]) -> Any:
    """Copy with the operations that are checked, not by the bytes of the storage."""
    if id(x) not in memo:
        memo[id(x)] = x.detach().clone().requires_grad_(x.requires_grad)
    return memo[id(x)]


def _on_cpu(method: Callable[..., Any]) -> Callable[..., Any]:
    def checked(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.device == GPU:
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        return method(x, *args, **kwargs)

    return checked


_ANSWERS: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_capability": lambda *_: (9, 0),
    "max_memory_allocated": lambda *_: 2**20,
    "synchronize": lambda *_: None,
    "empty_cache": lambda: None,
    "manual_seed": lambda _: None,
    "manual_seed_all": lambda _: None,
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "set_rng_state": lambda *_: None,
    "device": lambda _: contextlib.nullcontext(),
}
