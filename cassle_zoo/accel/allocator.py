"""Memory that a process keeps for its next tensors instead of asking the system for it again."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep what is freed; for processes that compute on the CPU.

    By default it gives every large tensor back to the system and asks for the next one anew, whose
    pages are then filled with zeros one by one: `python -m benchmarks.speed.allocator` measures
    what that costs. The process gets no larger than its peak, but never shrinks.

    Returns:
        Whether it was set. It is not without glibc, nor if environment variables choose an
        allocator or its settings.
    """
    if any(name.startswith(_VARIABLES) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
