"""ResNets for inference on CPUs: convolution, BatchNorm, ReLU and shortcut as one kernel each.

The BatchNorms are folded into the convolutions, and oneDNN's fused kernels, the ones that
torch.compile uses, save the passes over memory in between. Nothing is compiled, so the first batch
is as fast as the others.
"""

import platform
from itertools import chain
from types import NoneType
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from cassle_zoo.common.devices import autocast_dtype

# Exactly these and no subclasses, since only these are known to compute the same.
_KNOWN = {
    ResNet, BasicBlock, Bottleneck, SelectAdaptivePool2d, nn.Sequential, nn.Conv2d, nn.BatchNorm2d,
    nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Linear,
}  # fmt: skip


def fuse_for_inference(
    model: nn.Module, device: torch.device, precision: str = "fp32"
) -> nn.Module:
    """Return a copy with fused kernels if possible, else the model itself.

    The copy of a plain timm ResNet on an x86 CPU equals the model up to float32 rounding, and is as
    close to it in bf16 as autocast. Other models are returned as they are.

    Args:
        model: A model in evaluation mode on the device, which must not change while the copy is
            used.
        device: The device.
        precision: As in :func:`cassle_zoo.common.devices.autocast_dtype`.

    Raises:
        UnknownNameError: The precision does not exist.
    """
    if not can_fuse(model, device, precision):
        return model
    return FusedResNet(model, autocast_dtype(precision, device) or torch.float32)


def can_fuse(model: nn.Module, device: torch.device, precision: str = "fp32") -> bool:
    """Return whether :func:`fuse_for_inference` returns a copy; cheap enough for every batch."""
    dtype = autocast_dtype(precision, device) or torch.float32
    return device.type == "cpu" and _kernels_exist(dtype) and _is_plain_resnet(model)


def parts_and_values(model: nn.Module, *, content: bool) -> list[Any]:
    """Return a value that changes when a part of a model is replaced or its weights change.

    Args:
        model: A model that can be fused.
        content: Look at the parameters as well, a few rows of each: changes through
            `tensor.data`, as some optimisers and EMA updates make them, leave no other trace.
    """
    tensors = model.state_dict(keep_vars=True).values()
    versions = [(id(t), 0 if t.is_inference() else t._version) for t in tensors]
    parts = [(id(module), type(module)) for module in model.modules()]
    if not content:
        return [parts, versions]
    rows = [p.detach()[:: len(p) // 8 + 1] for p in model.parameters()]
    return [parts, versions, torch.stack([r.sum() for r in rows]).tolist()]


class FusedResNet(nn.Module):
    """A ResNet from images (B, 3, H, W) to features (B, D), in fused kernels.

    Attributes:
        num_classes: 0, because there is no classifier.
    """

    num_classes = 0

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """Fold the BatchNorms into copies of the convolutions.

        Args:
            model: A ResNet that `fuse_for_inference` accepts.
            dtype: Type of the computation.
        """
        super().__init__()
        self._dtype = dtype
        self._stem = _Convolution(model.conv1, model.bn1, dtype)
        self._max_pool = model.maxpool
        blocks = chain(model.layer1, model.layer2, model.layer3, model.layer4)
        self._blocks = nn.ModuleList(_Block(block, dtype) for block in blocks)
        self._pool = model.global_pool

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) in float32."""
        x = images.to(self._dtype, memory_format=torch.channels_last)
        x = self._max_pool(self._stem(x, "relu"))
        for block in self._blocks:
            x = block(x)
        pooled: Tensor = self._pool(x.float())
        return pooled


class _Block(nn.Module):
    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.shortcut: _Convolution | None = None
        if block.downsample is not None:
            self.shortcut = _Convolution(block.downsample[0], block.downsample[1], dtype)
        names = ("1", "2", "3") if isinstance(block, Bottleneck) else ("1", "2")
        convolutions = [
            _Convolution(getattr(block, f"conv{name}"), getattr(block, f"bn{name}"), dtype)
            for name in names
        ]
        self.inner = nn.ModuleList(convolutions[:-1])
        self.last = convolutions[-1]

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        for convolution in self.inner:
            x = convolution(x, "relu")
        return self.last.add_relu(x, shortcut)


class _Convolution(nn.Module):
    """A convolution with the BatchNorm after it."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype) -> None:
        super().__init__()
        weight, bias = _folded(conv, norm)
        # Buffers, since the copy cannot be trained.
        self.register_buffer("weight", weight.to(dtype), persistent=False)
        self.register_buffer("bias", bias.to(dtype), persistent=False)
        self.shape = (conv.padding, conv.stride, conv.dilation, conv.groups)

    def forward(self, x: Tensor, then: str = "none") -> Tensor:
        op = torch.ops.mkldnn._convolution_pointwise
        out: Tensor = op(x, self.weight, self.bias, *self.shape, then, [], "")
        return out

    def add_relu(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Add to the shortcut, in place, and apply ReLU."""
        op = torch.ops.mkldnn._convolution_pointwise_.binary
        settings: tuple[Any, ...] = (*self.shape, "add", 1.0, "relu", [], "")
        out: Tensor = op(shortcut, x, self.weight, self.bias, *settings)
        return out


@torch.no_grad()
def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight (channels_last) and bias of one convolution that does what both do.

    Like `torch.nn.utils.fuse_conv_bn_weights`, but in one pass over the weights: with its second
    pass, for the layout, folding a ResNet-50 takes as long as computing two images.
    """
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    inverse = torch.rsqrt(variance + norm.eps)
    gain = torch.ones_like(inverse) if norm.weight is None else norm.weight
    weight = torch.empty_like(conv.weight, memory_format=torch.channels_last)
    torch.mul(conv.weight, (gain * inverse).view(-1, 1, 1, 1), out=weight)
    before = -mean if conv.bias is None else conv.bias - mean
    bias = before * inverse * gain
    return weight, bias if norm.bias is None else bias + norm.bias


def _kernels_exist(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available() or platform.machine() not in ("x86_64", "AMD64"):
        return False
    # Not public, so another version of torch may lack them.
    ops = torch.ops.mkldnn
    if not hasattr(ops, "_convolution_pointwise") or not hasattr(ops, "_convolution_pointwise_"):
        return False
    return dtype == torch.float32 or bool(ops._is_mkldnn_bf16_supported())


def _is_plain_resnet(model: nn.Module) -> bool:
    """Return whether `FusedResNet` equals the model: all its parts are known, and none changed."""
    if type(model) is not ResNet or not all(_is_known(module) for module in model.modules()):
        return False
    if any(p.dtype != torch.float32 for p in model.parameters()):
        return False
    resnet: Any = model
    stem = [type(part) for part in (resnet.conv1, resnet.bn1, resnet.act1)]
    return stem == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] and all(
        type(block) in (BasicBlock, Bottleneck) and _is_plain_block(block)
        for block in chain(resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
    )


def _is_plain_block(block: Any) -> bool:
    if block.se is not None or block.drop_path is not None:
        return False
    inert = all(type(part) is nn.Identity for part in (block.drop_block, block.aa))
    activations = [getattr(block, name, None) for name in ("act1", "act2", "act3")]
    relu = all(type(part) in (nn.ReLU, NoneType) for part in activations)
    down = block.downsample
    return (
        inert and relu and (down is None or [type(m) for m in down] == [nn.Conv2d, nn.BatchNorm2d])
    )


def _is_known(module: nn.Module) -> bool:
    if type(module) not in _KNOWN or "forward" in vars(module):
        return False
    if module._forward_hooks or module._forward_pre_hooks or module.training:
        return False
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return not isinstance(module, nn.BatchNorm2d) or module.running_mean is not None
