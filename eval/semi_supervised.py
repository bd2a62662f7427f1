"""Which labels are known when only a share of them is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cassle_zoo.errors import ConfigError


def labelled_subset(
    labels: Tensor, rows: Tensor, fraction: float, generator: torch.Generator
) -> Tensor:
    """Draw the pictures whose labels are known, the same share of every class.

    Args:
        labels: (N,) classes of all pictures.
        rows: Indices of the pictures to draw from.
        fraction: Share to draw; of every class rounded, but at least one picture.
        generator: Of random numbers, on the CPU.

    Returns:
        Indices of pictures, a subset of `rows`, sorted.

    Raises:
        ConfigError: If `fraction` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"a share of labels must be above 0 and at most 1, got {fraction}.")
    chosen = []
    for label in labels[rows].unique().tolist():
        members = rows[labels[rows] == label]
        count = max(1, round(fraction * len(members)))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen or [rows]).sort().values


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation (of the sample; 0 for a single value)."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return float(tensor.mean()), float(tensor.std()) if len(values) > 1 else 0.0
