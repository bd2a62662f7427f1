from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cassle_zoo.accel import small_images
from cassle_zoo.accel.small_images import convolution_as_product, small_convolutions_as_products

CPU = torch.device("cpu")
SHAPES = [  # input (C, H, W), kernel (O, h, w), stride, padding
    ((6, 2, 2), (8, 3, 3), (1, 1), (1, 1)),
    ((6, 4, 4), (8, 3, 3), (2, 2), (1, 1)),
    ((6, 4, 4), (8, 1, 1), (2, 2), (0, 0)),
    ((6, 2, 1), (8, 1, 1), (1, 1), (0, 0)),
    ((3, 5, 9), (4, 2, 3), (3, 4), (0, 1)),
    ((3, 7, 7), (4, 7, 7), (1, 1), (0, 0)),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the outputs that were computed as products."""
    shapes: list[tuple[int, ...]] = []

    def noted(*args: Any) -> Tensor:
        y = convolution_as_product(*args)
        shapes.append(tuple(y.shape))
        return y

    monkeypatch.setattr(small_images, "convolution_as_product", noted)
    return shapes


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("image", "kernel", "stride", "padding"), SHAPES)
def test_equals_the_convolution_and_its_gradients(
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    bias: bool,
    memory_format: torch.memory_format,
) -> None:
    x = random(5, *image).to(memory_format=memory_format).requires_grad_()
    weight = random(kernel[0], image[0], *kernel[1:], seed=1).to(memory_format=memory_format)
    inputs = [x, weight.requires_grad_(), *([random(kernel[0], seed=2).requires_grad_()] * bias)]

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        return y.detach(), *torch.autograd.grad(y, inputs, random(*y.shape, seed=3))

    offset = inputs[2] if bias else None
    found = gradients(convolution_as_product(x, weight, offset, stride, padding))
    expected = gradients(F.conv2d(x, weight, offset, stride, padding))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_a_network_is_the_same_with_the_last_stage_as_products(
    products: list[tuple[int, ...]],
) -> None:
    network = timm.create_model("resnet18", num_classes=0).double().train()
    x = random(4, 3, 64, 64)
    expected = network(x)
    expected.sum().backward()
    gradients = {
        name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None
    }
    network.zero_grad()
    with small_convolutions_as_products(CPU):
        found = network(x)
    found.sum().backward()
    torch.testing.assert_close(found, expected)
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], atol=1e-8, rtol=1e-6)
    assert products == [(4, 512, 2, 2)] * 5  # stride 2, the shortcut, three more


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 4, 3, padding=1), (2, 4, 3, 3)),  # nine positions
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), (2, 4, 2, 2)),
        (nn.Conv2d(4, 4, 2, dilation=2), (2, 4, 3, 3)),
        (nn.Conv2d(4, 4, 3, padding="same"), (2, 4, 2, 2)),
        (nn.Conv2d(4, 4, 3, padding=1), (4, 2, 2)),  # no batch
    ],
)
def test_others_stay_torchs(
    layer: nn.Module, shape: tuple[int, ...], products: list[tuple[int, ...]]
) -> None:
    x = torch.randn(shape)
    expected = layer(x)
    with small_convolutions_as_products(CPU):
        assert torch.equal(layer(x), expected)
    assert not products


def test_bad_input_is_torchs_error() -> None:
    with small_convolutions_as_products(CPU), pytest.raises(RuntimeError, match="channels"):
        nn.Conv2d(4, 4, 3, padding=1)(torch.randn(2, 3, 2, 2))


def test_an_image_that_is_too_small_is_torchs_error() -> None:
    with small_convolutions_as_products(CPU), pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
        nn.Conv2d(4, 4, 5)(torch.randn(2, 4, 3, 3))


def test_autocast_applies_and_ends_with_the_context(products: list[tuple[int, ...]]) -> None:
    layer: Callable[[Tensor], Tensor] = nn.Conv2d(8, 8, 3, padding=1)
    x = torch.randn(2, 8, 2, 2)
    with torch.autocast("cpu", torch.bfloat16), small_convolutions_as_products(CPU):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=0.02, rtol=0.02)
    assert len(products) == 1


def test_gpus_keep_theirs() -> None:
    with small_convolutions_as_products(torch.device("cuda")):
        assert not torch.overrides._get_current_function_mode_stack()
