"""What timm users expect of a ViT; what holds for every model is in test_registry.py."""

from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

import cassle_zoo
from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.zoo.vit import has_sincos_positions

NAME = "vit_small_cassle_mocov3.in100"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    built: nn.Module = timm.create_model(NAME, img_size=64).eval()
    return built


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights, exact in half precision."""
    with torch.device("meta"):
        shapes = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    return {key: torch.randn(value.shape).half() * 0.1 for key, value in shapes.items()}


def test_a_model_is_mocov3s_headless_vit(model: Any) -> None:
    assert issubclass(type(model), timm.models.VisionTransformer)
    assert (model.num_classes, model.num_features) == (0, 384)
    assert model.blocks[0].attn.num_heads == 12
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 384)
    assert has_sincos_positions(model.pos_embed)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_names_without_tag() -> None:
    for arch, width in (("vit_small", 384), ("vit_base", 768)):
        for name in (f"{arch}_cassle_mocov3", f"{arch}_mocov3"):
            with torch.device("meta"):
                model: Any = timm.create_model(name, pretrained=False)
            assert (model.num_features, model.blocks[0].attn.num_heads) == (width, 12)
            assert model.pretrained_cfg["tag"] == "in100"
            assert cassle_zoo.model_info(name).input_size == (3, 224, 224)


def test_the_data_config_is_the_specs() -> None:
    spec = MODEL_SPECS[NAME]
    with torch.device("meta"):
        config = resolve_model_data_config(timm.create_model(NAME))
    assert (config["input_size"], config["mean"]) == (spec.input_size, spec.mean)


def test_timm_arguments() -> None:
    images = torch.zeros(2, 1, 32, 32)
    model: Any = timm.create_model(
        NAME, num_classes=7, in_chans=1, img_size=32, global_pool="avg", depth=1
    ).eval()
    assert model(images).shape == (2, 7)
    model.reset_classifier(0, "")
    assert model(images).shape == (2, 5, 384)
    model.reset_classifier(3, "token")
    assert model(images).shape == (2, 3)


def test_features_only() -> None:
    model: Any = timm.create_model(
        NAME, features_only=True, out_indices=(0, 2), num_classes=10, img_size=64, depth=3
    ).eval()
    maps = model(torch.zeros(1, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(1, 384, 4, 4)] * 2
    assert model.feature_info.channels() == [384, 384]
    assert model.feature_info.reduction() == [16, 16]


def test_the_model_compiles_and_exports() -> None:
    model = timm.create_model(NAME, img_size=32, depth=1).eval()
    images = torch.rand(2, 3, 32, 32)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))
        program = torch.export.export(model, (images,))
        torch.testing.assert_close(program.module()(images), model(images))


def test_pretrained_loads_every_weight_in_float32(publish: Any, state: dict[str, Tensor]) -> None:
    publish(NAME, state)
    loaded = timm.create_model(NAME, pretrained=True).state_dict()
    assert loaded.keys() == state.keys()
    for key, value in loaded.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].float()), key
    maps = timm.create_model(NAME, pretrained=True, features_only=True, num_classes=5)
    weight = maps.state_dict()["model.blocks.3.mlp.fc1.weight"]
    assert torch.equal(weight, state["blocks.3.mlp.fc1.weight"].float())


def test_pretrained_with_classifier_channels_and_size(
    publish: Any, state: dict[str, Tensor]
) -> None:
    publish(NAME, state)
    model: Any = timm.create_model(NAME, pretrained=True, num_classes=5, in_chans=1, img_size=64)
    assert model.head.weight.shape == (5, 384)
    assert model.pos_embed.shape == (1, 17, 384)
    assert torch.equal(model.pos_embed[:, 0], state["pos_embed"][:, 0].float())
    patches = state["patch_embed.proj.weight"].float().sum(1, keepdim=True)
    torch.testing.assert_close(model.patch_embed.proj.weight, patches)


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 5}, {"features_only": True}])
def test_a_file_that_lacks_a_weight_is_refused(
    publish: Any, state: dict[str, Tensor], kwargs: dict[str, Any]
) -> None:
    publish(NAME, {key: value for key, value in state.items() if key != "blocks.2.norm1.bias"})
    with pytest.raises(ModelFolderError, match=r"1 missing: blocks\.2\.norm1\.bias"):
        timm.create_model(NAME, pretrained=True, **kwargs)
