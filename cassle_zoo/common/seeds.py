"""Seeds that depend only on what is drawn, not on the process or the time."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def digest_of(*parts: int | str) -> bytes:
    """Return 16 bytes that are a hash of the parts."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()


def seed_of(*parts: int | str) -> int:
    """Return a seed in [0, 2^32) that is a hash of the parts."""
    return int.from_bytes(digest_of(*parts)[:4])


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators, which timm's augmentation uses, and restore them afterwards.

    Args:
        seed: In [0, 2^32).
        device: A CUDA device whose generator is seeded as well.

    Yields:
        Nothing; draw inside.
    """
    python, numpy = random.getstate(), np.random.get_state()
    cuda = device if device is not None and device.type == "cuda" else None
    # Not fork_rng and manual_seed, which handle every GPU and so take longer per image.
    cpu_state = torch.default_generator.get_state()
    cuda_state = None if cuda is None else torch.cuda.get_rng_state(cuda)
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if cuda is not None:
            with torch.cuda.device(cuda):
                torch.cuda.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(cpu_state)
        if cuda is not None and cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, cuda)
