from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from cassle_zoo import Extractor, extract_features
from cassle_zoo.accel.fused import FusedResNet, fuse_for_inference
from cassle_zoo.features.inference import embed, inference

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_convolution_pointwise"), reason="torch without these kernels"
)


def make(name: str = "resnet18", **options: Any) -> Any:
    """Build a model with BatchNorms of which nothing is 0 or 1."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **{"num_classes": 0, **options})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.2, 0.8)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features(model: nn.Module, precision: str) -> tuple[Tensor, Tensor]:
    with inference(model, CPU, precision):
        fast = fuse_for_inference(model, CPU, precision)
        assert isinstance(fast, FusedResNet)
        return embed(fast, images()), embed(model, images())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_equals_the_model(name: str) -> None:
    fast, plain = features(make(name), "fp32")
    assert plain.std() > 0.01
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_bf16_is_as_close_to_fp32_as_autocast() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bf16 kernels")
    model = make("resnet50")
    exact = features(model, "fp32")[1]
    fast, plain = features(model, "bf16")
    assert torch.cosine_similarity(fast, exact).min() > 0.999
    assert (fast - exact).norm() < 1.5 * (plain - exact).norm()


def test_extraction_uses_it_and_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(num_classes=7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.layer2.train()
    calls: list[int] = []
    run = FusedResNet.forward

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return run(*args)

    monkeypatch.setattr(FusedResNet, "forward", counted)
    found = extract_features(model, list(images()), transform="as_is", batch_size=2, device="cpu")
    assert len(calls) == 3
    with inference(model, CPU):
        torch.testing.assert_close(found.features, embed(model, images()), rtol=1e-5, atol=1e-5)
    assert model.layer2.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def hooked(model: Any) -> None:
    model.layer1[0].conv1.register_forward_hook(lambda module, inputs, output: output + 1)


def replaced(model: Any) -> None:
    model.layer1[0].act1 = nn.GELU()


def other_forward(model: Any) -> None:
    model.layer1[0].forward = lambda x: x


def half(model: nn.Module) -> None:
    model.half()


def training(model: Any) -> None:
    model.layer1.train()


def step(model: nn.Module) -> None:
    """As many optimisers and EMA updates do; it leaves the versions of the tensors alone."""
    for parameter in model.parameters():
        parameter.data.mul_(0.9)


def assigned(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.9


def without_pooling(model: Any) -> None:
    model.maxpool = nn.Identity()


@pytest.mark.parametrize("change", [step, assigned, without_pooling, hooked])
def test_changes_between_batches_count(change: Callable[[nn.Module], None]) -> None:
    model = make()
    extractor = Extractor(model, transform="as_is", device="cpu")
    before = extractor(images())["pooled"]
    change(model)
    with torch.no_grad():
        expected = model(images())
    assert not torch.allclose(before, expected, rtol=1e-2)
    torch.testing.assert_close(extractor(images())["pooled"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [hooked, replaced, other_forward, half, training])
def test_changed_models_stay_as_they_are(change: Callable[[nn.Module], None]) -> None:
    model = make()
    assert isinstance(fuse_for_inference(model, CPU), FusedResNet)
    change(model)
    assert fuse_for_inference(model, CPU) is model


@pytest.mark.parametrize(
    "name", ["resnet18d", "seresnet18", "resnetblur18", "vit_tiny_patch16_224"]
)
def test_other_models_stay_as_they_are(name: str) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    assert fuse_for_inference(model, CPU) is model


def test_subclasses_stay_as_they_are() -> None:
    class Own(ResNet):
        pass

    model = make()
    model.__class__ = Own
    assert fuse_for_inference(model, CPU) is model
