"""Guards against silent failure of a run: bad data, bad losses, and failures of the machine."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cassle_zoo.common import faults
from cassle_zoo.common.errors import DataError, NonFiniteLossError, ProcessLostError

SMALLEST_LOSS_SCALE = 2.0**-20  # fp16's smallest number is 2^-24
_CONTINUES = "The same command continues."
_DIVERGED = (
    "the last checkpoint is from before. Usual reasons: a learning rate that is too high "
    "(--optim.base-lr), or too little warm-up (--optim.warmup-epochs); --run.precision fp32 rules "
    "out rounding."
)


class BadImages:
    """Counts images that could not be read, and stops the run when they are too many."""

    def __init__(self, dataset: Any, max_fraction: float) -> None:
        """Allow `max_fraction` of the images of `dataset` to be bad."""
        self._dataset = dataset
        self._limit = max_fraction * len(dataset)
        self._indices: set[int] = set()
        self._count = 0

    def note(self, bad: Tensor) -> list[str]:
        """Take the `bad` column of a batch; return the names of newly found bad images.

        Raises:
            DataError: If more than the allowed fraction is bad.
        """
        new = sorted(set(bad[bad >= 0].tolist()) - self._indices)
        self._indices.update(new)
        names = [self._name(index) for index in new]
        # A lost shard counts for all images in it.
        self._count += sum(map(getattr(self._dataset, "weight", lambda _: 1), new))
        if self._count > self._limit:
            raise DataError(
                f"{self._count} of {len(self._dataset)} images cannot be read, the last "
                f"is {names[-1]}; remove them or raise --data.max-bad-fraction."
            )
        return names

    def _name(self, index: int) -> str:
        filename = getattr(self._dataset, "filename", None)
        return repr(filename(index)) if filename else f"number {index}"


def check_finite(loss: float, step: int) -> None:
    """Check a step's loss.

    Raises:
        NonFiniteLossError: If it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"the loss became {loss} at step {step + 1}; {_DIVERGED}")


def check_finite_weights(method: nn.Module, step: int) -> None:
    """Check weights before they are measured or stored: from others no run could continue.

    Raises:
        NonFiniteLossError: If one is NaN or infinite.
    """
    for name, weights in method.named_parameters():
        if not weights.isfinite().all():
            raise NonFiniteLossError(f"step {step} made {name} NaN or infinite; {_DIVERGED}")


def check_loss_scale(scale: float, step: int) -> None:
    """Check the factor on an fp16 loss, which halves whenever gradients overflow.

    Raises:
        NonFiniteLossError: If it has become so small that overflow cannot be the reason.
    """
    if scale < SMALLEST_LOSS_SCALE:
        raise NonFiniteLossError(
            f"at step {step} the gradients are NaN or infinite even with the loss scaled by "
            f"{scale:g}, so that no step is taken any more; --run.precision fp32 or bf16 rules out "
            "overflow, --optim.base-lr and --optim.warmup-epochs a training that diverges."
        )


@contextlib.contextmanager
def translate_errors(out: Path, batch_size: int) -> Iterator[None]:
    """Turn failures of the machine into errors that say what to do.

    Args:
        out: Folder of the run.
        batch_size: Images per step.

    Raises:
        NotEnoughMemoryError: If the memory of the machine or a GPU, or shared memory, is exhausted.
        StorageError: If the disk is full, or a file in `out` cannot be written.
        DataError: If a data worker was killed.
        ProcessLostError: If another process, or the network to it, is gone.
    """
    with faults.translate_errors(out, batch_size, advice(batch_size)):
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)
            if lost and not faults.is_out_of_memory(error):
                reason = str(error).strip().partition("\n")[0]
                raise ProcessLostError(
                    f"lost the other processes ({reason}). Under torchrun --max-restarts N the run "
                    "restarts from the last checkpoint, as it does with the same command."
                ) from error
            raise


def advice(batch_size: int) -> faults.Advice:
    """Say what to do if the machine fails a run with this many images per step."""
    return faults.Advice(
        output="--out",
        workers="--data.workers",
        memory="The last checkpoint is intact. "
        "Without changing the result: split each batch among more processes (torchrun), or "
        "pass fewer --data.workers if it is the machine's memory, not a GPU's. As a new run with "
        f"another --out: {less_memory(batch_size)}. "
        "--dry-run shows the memory that a run needs.",
        storage="the checkpoints there are intact. Make room, then the same command continues.",
        afterwards=_CONTINUES,
    )


def less_memory(batch_size: int) -> str:
    """Name the settings with which a step needs less memory."""
    return (
        "--optim.accumulate 2 (the same batch in two parts), --optim.batch-size "
        f"{max(2, batch_size // 2)} or --run.precision bf16"
    )
