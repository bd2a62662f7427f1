"""The training loop of the protocols that train networks."""

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cassle_zoo.common.errors import NonFiniteLossError


def train(
    loss_of: Callable[[Any], Tensor],
    batches: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    lr: float,
    schedule: Callable[[int], float],
    name: str,
    advice: str = "use a smaller one",
    progress: bool | None = None,
) -> list[float]:
    """Take a step of an optimiser for every batch.

    Args:
        loss_of: Computes the loss of a batch.
        batches: What it is computed of.
        optimizer: Groups with an `lr_scale` have that fraction of the learning rate.
        steps: Number of batches.
        lr: Peak learning rate.
        schedule: Fraction of the peak at a step, from 0.
        name: Of what is trained, for messages and the progress bar.
        advice: What to do about a learning rate that is too large.
        progress: Whether to show a progress bar; by default on a terminal.

    Returns:
        The loss of each step.

    Raises:
        NonFiniteLossError: If the loss becomes NaN or infinite.
    """
    losses: list[float] = []
    disable = None if progress is None else not progress
    bar = tqdm(
        batches,
        total=steps,
        unit="step",
        desc=f"{name}, lr {lr:g}",
        file=sys.stderr,
        disable=disable,
    )
    with bar:
        for step, batch in enumerate(bar):
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(step) * group.get("lr_scale", 1.0)
            loss = loss_of(batch)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise NonFiniteLossError(
                    f"the loss of the {name} is {losses[-1]} at step {step} of {steps} with lr "
                    f"{lr:g}; {advice}."
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses
