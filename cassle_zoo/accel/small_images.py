"""Convolutions and attention of small images as matrix products, which are faster on CPUs."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_LARGEST_MAP = 4
"""Positions of the largest output, 2 x 2, that is computed as a product."""

_LARGEST_UNFUSED = 160
"""Image side in pixels: with patches of 16, torch's fused attention is slower up to here."""


def small_convolutions_as_products(
    device: torch.device,
) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which CPUs compute convolutions onto small maps as matrix products.

    Small maps are at most 2 x 2, as in the last stage of a ResNet for images of 64 pixels. For
    these, oneDNN reads all weights again for each image of a batch, and waits for memory. Results
    are equal up to rounding. Activation checkpointing, which repeats forward passes in the backward
    pass, needs the context there as well.

    Args:
        device: Where the computation runs; except on CPUs, the context changes nothing.
    """
    return _SmallMapsAsProducts() if device.type == "cpu" else contextlib.nullcontext()


def small_attention_as_products(
    device: torch.device, dtype: torch.dtype | None, size: int
) -> contextlib.AbstractContextManager[None]:
    """Return a context in which CPUs compute bf16 attention of few tokens as matrix products.

    In bf16 on CPUs, forward and backward pass of torch's fused attention take 4.3 times as long as
    plain matrix products at 17 tokens, 2.2 at 50 and 1.4 at 145 (one core of an AMD EPYC with
    AVX512-BF16, torch 2.15.0). Otherwise torch chooses.

    Args:
        device: Where the computation runs.
        dtype: From :func:`cassle_zoo.common.devices.autocast_dtype`.
        size: Side of the images in pixels.
    """
    if device.type == "cpu" and dtype is not None and size <= _LARGEST_UNFUSED:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def convolution_as_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Compute a convolution as one product of all patches with the kernel.

    Args:
        x: Input (N, C, H, W).
        weight: Kernel (O, C, h, w).
        bias: Bias (O,).
        stride: Vertical and horizontal.
        padding: Zeros on each side, vertical and horizontal.

    Returns:
        Output (N, O, H', W') with memory format channels_last.
    """
    (down, across), (top, left) = stride, padding
    rows, columns = _output_size(x, weight, stride, padding)
    bottom, right = down * (rows - 1) + 1, across * (columns - 1) + 1
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
    patches = [
        padded[:, i : i + bottom : down, j : j + right : across]
        for i in range(weight.shape[2])
        for j in range(weight.shape[3])
    ]
    kernel = weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(torch.cat(patches, dim=-1), kernel, bias).permute(0, 3, 1, 2)


class _SmallMapsAsProducts(TorchFunctionMode):
    """Replaces `torch.conv2d` if its output is small."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and not kwargs and _is_small(*args):
            return convolution_as_product(*args[:5])
        return func(*args, **(kwargs or {}))


def _is_small(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    plain = groups == 1 and dilation == (1, 1) and x.ndim == 4
    if not (plain and isinstance(stride, tuple) and isinstance(padding, tuple)):
        return False
    if x.shape[1] != weight.shape[1]:
        return False  # torch's error names the layer's channels
    rows, columns = _output_size(x, weight, stride, padding)
    return min(rows, columns) > 0 and rows * columns <= _LARGEST_MAP


def _output_size(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    rows, columns = (
        (size + 2 * pad - kernel) // step + 1
        for size, kernel, step, pad in zip(
            x.shape[2:], weight.shape[2:], stride, padding, strict=True
        )
    )
    return rows, columns
