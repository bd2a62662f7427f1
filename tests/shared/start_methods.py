"""How Python starts processes, such as data workers: only forks have what a test has patched."""

import contextlib
import multiprocessing
from collections.abc import Iterator

import pytest

FORKS = multiprocessing.get_all_start_methods()[0] == "fork"  # not on macOS, nor from 3.14 on
forked = pytest.mark.skipif(not FORKS, reason="only forked workers have what is patched")


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """Spawn processes meanwhile, as macOS does by default."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)
