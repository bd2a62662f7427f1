import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cassle_zoo.accel.small_images import small_attention_as_products
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.trainer import Trainer

CPU = torch.device("cpu")


class Operators(TorchDispatchMode):
    """Notes the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def attend(dtype: torch.dtype | None, size: int) -> tuple[Tensor, bool]:
    """Return the attention's result, and whether torch's fused kernel computed it."""
    x = torch.randn(2, 3, 17, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)
    with Operators() as operators, small_attention_as_products(CPU, dtype, size):
        y = F.scaled_dot_product_attention(x.requires_grad_(), x, x)
    return y.detach(), any("flash" in name for name in operators.names)


@pytest.mark.parametrize(
    ("dtype", "size", "fused"),
    [
        (torch.bfloat16, 64, False),
        (torch.bfloat16, 160, False),
        (torch.bfloat16, 224, True),
        (None, 64, True),
    ],
)
def test_which_attention(dtype: torch.dtype | None, size: int, fused: bool) -> None:
    assert attend(dtype, size)[1] == fused


def test_both_compute_the_same_and_the_choice_ends_with_the_context() -> None:
    plain, fused = attend(torch.bfloat16, 64)[0], attend(torch.bfloat16, 224)
    torch.testing.assert_close(plain, fused[0], atol=0.02, rtol=0.02)
    assert fused[1]


def test_steps_of_training_use_it(config: TrainConfig) -> None:
    run = dataclasses.replace(config.run, device="cpu", precision="bf16")
    config = dataclasses.replace(config, arch="vit_tiny_patch16_224", run=run)
    trainer = Trainer(config, 5)
    batch = next(iter(batches(config, open_dataset(config.data), 0, 10)))
    with Operators() as operators:
        trainer.train_step(batch, 10)
    assert any("bmm" in name for name in operators.names)
    assert not any("flash" in name for name in operators.names)
