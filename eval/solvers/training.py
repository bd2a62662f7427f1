"""The training loop of the protocols that train networks."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cassle_zoo.common.errors import NonFiniteLossError


def train(
    loss_of: Callable[[Any], Tensor],
    batches: "tqdm[Any]",
    optimizer: torch.optim.Optimizer,
    *,
    lr: float,
    schedule: Callable[[int], float],
    advice: str = "use a smaller one",
) -> list[float]:
    """Take a step of an optimiser for every batch.

    Args:
        loss_of: Computes the loss of a batch.
        batches: What it is computed of, behind a progress bar that knows their number.
        optimizer: Groups with an `lr_scale` have that fraction of the learning rate.
        lr: Peak learning rate.
        schedule: Fraction of the peak at a step, from 0.
        advice: What to do about a learning rate that is too large.

    Returns:
        The loss of each step.

    Raises:
        NonFiniteLossError: If the loss becomes NaN or infinite.
    """
    losses: list[float] = []
    with batches:
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(step) * group.get("lr_scale", 1.0)
            loss = loss_of(batch)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise NonFiniteLossError(
                    f"the loss is {losses[-1]} at step {step} of {batches.total} with lr {lr:g}; "
                    f"{advice}."
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses
