"""Inference that leaves the model as it was: its device, its mode, and its features."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cassle_zoo.common.devices import autocast_dtype, pick_device
from cassle_zoo.common.errors import ConfigError


def choose_device(model: nn.Module, device: str | torch.device | None = None) -> torch.device:
    """Choose the device to run a model on.

    Args:
        model: The model.
        device: The requested device.

    Returns:
        That device; by default the model's if it is not the CPU, else a GPU, else the CPU.

    Raises:
        ConfigError: There is no such device.
    """
    current = next((tensor.device for tensor in _tensors(model)), None)
    if device is None and current is not None and current.type != "cpu":
        return current
    return pick_device(device)


@contextmanager
def inference(model: nn.Module, device: torch.device, precision: str = "fp32") -> Iterator[None]:
    """Run a model on a device in evaluation mode without gradients, and restore it afterwards.

    In fp32, TensorFloat-32 is off meanwhile, since its rounding depends on the batch size. A model
    that is spread over several devices is not moved.

    Args:
        model: The model; weights, device and the training mode of every part are restored.
        device: The device.
        precision: As in :func:`cassle_zoo.common.devices.autocast_dtype`.

    Yields:
        Nothing; run the model inside.

    Raises:
        UnknownNameError: The precision does not exist.
    """
    dtype = autocast_dtype(precision, device)
    modes = [(module, module.training) for module in model.modules()]
    homes = {tensor.device for tensor in _tensors(model)}
    try:
        model.eval()
        if len(homes) == 1:
            model.to(device)
        with ExitStack() as stack:
            # Not inference_mode: tensors that a model caches in it break later training.
            stack.enter_context(torch.no_grad())
            # Entered even for fp32, where it shields from an autocast around the caller.
            stack.enter_context(torch.autocast(device.type, dtype, enabled=dtype is not None))
            if device.type == "cuda" and dtype is None:
                stack.enter_context(_full_fp32())
            yield
    finally:
        for module, training in modes:
            module.training = training
        if len(homes) == 1:
            model.to(homes.pop())


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the features that a model gives to its classifier.

    Args:
        model: A model; the classifier of one with timm's ``forward_head`` is not applied.
        images: (B, C, H, W) on the model's device.

    Returns:
        (B, D) float32 on the CPU.

    Raises:
        ConfigError: The model returns anything else.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is not None and parameter.dtype != images.dtype:
        images = images.to(parameter.dtype)
    # Convolutions follow the input's layout, so the weights need not be touched.
    if images.device.type in ("cpu", "cuda"):
        images = images.contiguous(memory_format=torch.channels_last)
    if getattr(model, "num_classes", 0) and hasattr(model, "forward_head"):
        timm_model: Any = model
        hidden = timm_model.forward_features(images)
        features = timm_model.forward_head(hidden, pre_logits=True)
    else:
        features = model(images)
    if not isinstance(features, Tensor) or features.ndim != 2:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ConfigError(
            f"The model returns {found}; (batch, features) is needed. For a timm model: "
            "create it with num_classes=0 and pooling, without features_only."
        )
    return features.float().cpu()


@contextmanager
def _full_fp32() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    settings: tuple[str, str | bool] = ("fp32_precision", "ieee")
    if not hasattr(cudnn, "conv"):  # before torch 2.9
        settings = ("allow_tf32", False)
    name, value = settings
    switches = (getattr(cudnn, "conv", cudnn), torch.backends.cuda.matmul)
    old = [getattr(switch, name) for switch in switches]
    for switch in switches:
        setattr(switch, name, value)
    try:
        yield
    finally:
        for switch, before in zip(switches, old, strict=True):
            setattr(switch, name, before)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())
