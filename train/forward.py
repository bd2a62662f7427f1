"""Forward passes of a method's backbones in training: compiled, and by parts to save memory."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from cassle_zoo.common.errors import ConfigError

Context = Callable[[], contextlib.AbstractContextManager[Any]]


def adapt_backbones(method: nn.Module, *, parts: int, compiled: bool, computation: Context) -> None:
    """Change how backbones (also a teacher's) run in training mode; their parameters stay the same.

    In parts, only one part's activations exist at a time: each is computed again in the backward
    pass. The loss is that of the whole batch, as are its gradients, up to rounding; only BatchNorm
    in the backbone sees one part after the other. (Gao et al., arXiv 2101.06983, cache gradients
    with respect to features to the same effect.)

    Args:
        method: Holds them as sub-modules named `backbone`.
        parts: Parts of a batch. Part `i` holds the rows `i`, `i + parts`, ..., so that several
            processes with some rows each form the same parts as one process.
        compiled: Whether to compile them with `torch.compile`.
        computation: Opens the contexts of the forward pass, to repeat it in them.
    """
    if parts == 1 and not compiled:
        return
    for name, module in method.named_modules():
        *owners, last = name.split(".")
        if last == "backbone" and last not in owners:  # timm's hybrid ViTs have one inside
            module.forward = _forward_in_training(module, parts, compiled, computation)


def check_compiler(device: torch.device) -> None:
    """Check, before a run, that `torch.compile` works on a device.

    Raises:
        ConfigError: With torch's reason.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # torch's, its backend's, or the compiler's own
        reason = str(error).strip().partition("\n")[0]
        needed = "a C++ compiler" if device.type == "cpu" else "Triton and a C compiler"
        raise ConfigError(
            f"run.compile does not work on {device} here ({type(error).__name__}: {reason:.300}); "
            f"install {needed}, or leave out --run.compile."
        ) from error


def _forward_in_training(
    backbone: nn.Module, parts: int, compiled: bool, computation: Context
) -> Callable[[Tensor], Any]:
    plain: Callable[[Tensor], Any] = backbone.forward
    run = torch.compile(plain) if compiled else plain

    def contexts() -> tuple[Any, Any]:
        return contextlib.nullcontext(), _repeating(backbone, computation)

    def one_part(images: Tensor) -> Any:
        if parts == 1 or not torch.is_grad_enabled():
            return run(images)
        return checkpoint(run, images, use_reentrant=False, context_fn=contexts)

    def forward(images: Tensor) -> Any:
        if not backbone.training:
            return plain(images)
        features = [one_part(part) for part in split(images, parts)]
        return torch.stack(features, dim=1).flatten(0, 1) if parts > 1 else features[0]

    return forward


def split(images: Tensor, parts: int) -> list[Tensor]:
    """Return the rows `i`, `i + parts`, ... of a (B, C, H, W) batch for each part `i`."""
    if parts == 1:
        return [images]
    kept = torch.channels_last if images.stride(1) == 1 else torch.contiguous_format
    return [images[i::parts].contiguous(memory_format=kept) for i in range(parts)]


@contextlib.contextmanager
def _repeating(backbone: nn.Module, computation: Context) -> Iterator[None]:
    """Repeat a forward pass exactly, without updating BatchNorm statistics again."""
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm, _, count in before:
            # A copy, to leave the count as it is: torch's SyncBatchNorm refuses to run without one.
            norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
        with computation():
            yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
