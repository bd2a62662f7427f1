"""Semi-supervised evaluation: the few images whose labels are used."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.seeds import digest_of


def label_share(
    rows: Tensor, labels: Tensor, share: float, *, seed: int = 0, names: Sequence[str] = ()
) -> Tensor:
    """Choose a share of the images of every class, at least one of each.

    Every image has a place in a queue by a hash of seed and name, so the choice depends neither
    on the order of the images nor on the other classes, and smaller shares are part of larger.

    Args:
        rows: (N,) int64 indices of images.
        labels: (N,) their classes.
        share: In (0, 1]; of each class, rounded to the nearest number of images.
        seed: Another seed chooses other images.
        names: Of all images, by index; without, the index is the name.

    Returns:
        (M,) int64: the chosen of `rows`, in their order.

    Raises:
        ConfigError: If `share` is out of range.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"a share of labels is in (0, 1], got {share}.")
    queue: dict[int, list[tuple[bytes, int]]] = {}
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        place = digest_of(seed, names[row] if names else row)
        queue.setdefault(label, []).append((place, row))
    chosen: set[int] = set()
    for members in queue.values():
        count = max(1, math.floor(share * len(members) + 0.5))
        chosen.update(row for _, row in sorted(members)[:count])
    return torch.tensor([row for row in rows.tolist() if row in chosen], dtype=torch.long)
