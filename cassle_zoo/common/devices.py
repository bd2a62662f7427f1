"""Devices and precisions: those requested, or the best of this machine."""

import functools
import os
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, unknown_name

PRECISIONS = ("auto", "fp32", "bf16")
_PROCESSORS = Path("/proc/cpuinfo")


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """Return the requested device as tensors name it; by default a GPU of CUDA, else the CPU.

    Raises:
        ConfigError: If there is no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Tensors sent to `cuda` are on `cuda:0`; to torch these two are different devices.
        chosen = torch.empty(0, device=torch.device(device)).device
    except (AssertionError, ImportError, RuntimeError) as error:  # torch raises any of them
        raise _unusable(device, str(error).splitlines()[0]) from None
    if chosen.type == "meta":
        raise _unusable(device, "it computes nothing")
    return chosen


def check_device(device: str | torch.device | None) -> None:
    """Refuse a requested device that cannot be used, before time is spent on anything else.

    Raises:
        ConfigError: If there is no such device.
    """
    if device is not None:
        pick_device(device)


def device_of_process(device: str | None, option: str) -> str | None:
    """Give each process that torchrun starts on a machine a GPU of its own.

    Args:
        device: The requested device; `None` and `cuda` leave the choice.
        option: The option that requests one, for the message.

    Raises:
        ConfigError: If there are fewer GPUs than processes.
    """
    if device not in (None, "cuda") or "LOCAL_RANK" not in os.environ:
        return device
    number = int(os.environ["LOCAL_RANK"])
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and number >= count:
        raise ConfigError(
            f"this machine has {count} GPUs, but torchrun started process number {number + 1} "
            f"here; lower --nproc-per-node to {count}, or pass {option} cpu."
        )
    return f"cuda:{number}" if count else device


def _unusable(device: str | torch.device, reason: str) -> ConfigError:
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    there += ["mps"] * torch.backends.mps.is_available()
    return ConfigError(
        f"device {str(device)!r} cannot be used ({reason}); this machine has: {', '.join(there)}."
    )


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; from the CPU, without waiting for earlier work of a GPU.

    Copies from a GPU are synchronous, or they would be read before they are there. So are copies to
    MPS, because torch may read the source after it is freed (pytorch issue 189690).
    """
    return x.to(device, non_blocking=x.device.type == "cpu" and device.type != "mps")


def peak_bytes(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: of a GPU, or else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype to autocast to, or `None` for full float32.

    Args:
        precision: `fp32`, `bf16`, or `auto`: bf16 where it is about twice as fast (CUDA from Ampere
            on; CPUs with AMX; AMD's with AVX512-BF16).
        device: Where the computation runs.

    Raises:
        UnknownNameError: If `precision` is none of these.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision == "fp32" or (precision == "auto" and not _gains_from_bf16(device)):
        return None
    return torch.bfloat16


def _gains_from_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Without AMX, Intel's processors take twice as long in bf16 as in fp32 (measured: matrix
        # products and convolutions on an Emerald Rapids whose AMX the virtual machine hides).
        amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
        return bool(amx or (avx512 and _processor_vendor() != "GenuineIntel"))
    return False


@functools.cache
def _processor_vendor() -> str:
    """Return what Linux says of the maker of an x86 processor, or nothing."""
    try:
        lines = _PROCESSORS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("vendor_id")), "")
