"""Freed memory is kept, unless someone else has chosen an allocator."""

import os
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import torch
from cassle_zoo.accel.allocator import keep_freed_memory

print(keep_freed_memory())
for _ in range(20):
    torch.zeros(8 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
PAGES = 20 * 32 * 2**20 // 4096


def count(**environment: str) -> tuple[str, int]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    own.pop("LD_PRELOAD", None)
    command = [sys.executable, "-c", COUNT_FAULTS]
    said = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=own | environment
    )
    kept, faults = said.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not hasattr(os, "confstr") or sys.platform != "linux", reason="needs glibc")
def test_large_tensors_are_not_asked_of_the_system_again() -> None:
    if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
        pytest.skip("needs glibc")
    kept, faults = count()
    left, faults_before = count(MALLOC_ARENA_MAX="8")
    assert (kept, left) == ("True", "False")
    assert faults_before - faults > PAGES / 2
