"""Seeds that depend only on what is drawn, not on the process or the time."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

Draw: TypeAlias = tuple[int, int]
"""An epoch and the index of an image."""


def digest_of(*parts: int | str) -> bytes:
    """Return 16 bytes that are a hash of the parts."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()


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


class Batches(Sampler[list[Draw]]):
    """All batches of all epochs, reshuffled in each."""

    def __init__(self, rows: Tensor, batch: int, epochs: int, seed: int) -> None:
        """Draw `rows` in batches of `batch`, or all at once if there are fewer."""
        self.rows = rows
        self.batch = min(batch, len(rows))
        self.epochs = epochs
        self.seed = seed

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self.rows) // self.batch

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the draws of each batch."""
        for epoch in range(self.epochs):
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch, "order"))
            order = self.rows[torch.randperm(len(self.rows), generator=generator)].tolist()
            for step in range(self.per_epoch):
                part = order[step * self.batch : (step + 1) * self.batch]
                yield [(epoch, index) for index in part]
