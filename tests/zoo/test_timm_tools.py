"""timm's own tools on our models: saving and loading with a classifier, pooling, meta device."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from timm.layers import apply_test_time_pool
from timm.models import save_for_hf
from torch import nn

import cassle_zoo
from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.folder import bundled_folder
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.zoo.registry import make_config
from cassle_zoo.zoo.vit import has_sincos_positions

# A ViT of three blocks keeps it quick.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet18_cassle_simclr", {}),
    "vit": ("vit_small_cassle_mocov3", {"depth": 3, "img_size": 64}),
}


@pytest.fixture(scope="module", params=KINDS)
def fine_tuned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, Path]:
    """A model with a classifier of 7 classes, and where timm's `save_for_hf` put it."""
    name, options = KINDS[request.param]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **options).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05)
    folder = tmp_path_factory.mktemp("tuned") / request.param
    save_for_hf(model, str(folder), model_args=options or None, safe_serialization=True)
    return model, folder


def same_backbone(model: nn.Module, tuned: Any) -> bool:
    expected = {k: v for k, v in tuned.state_dict().items() if not k.startswith(("fc.", "head."))}
    found = model.state_dict()
    return all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("kwargs", "classes"),
    [
        ({}, 7),
        ({"num_classes": 7}, 7),
        ({"num_classes": 0}, 0),
        ({"num_classes": 3}, 3),
        ({"pretrained_cfg_overlay": {"crop_pct": 0.5}}, 7),
    ],
)
def test_a_fine_tuned_model_is_loaded(
    fine_tuned: tuple[Any, Path], kwargs: dict[str, Any], classes: int
) -> None:
    tuned, folder = fine_tuned
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()
    assert model.num_classes == classes
    assert same_backbone(model, tuned)
    if classes == 7:
        images = torch.randn(2, 3, 64, 64)
        assert torch.equal(model(images), tuned(images))


def test_the_feature_maps_of_a_fine_tuned_model(fine_tuned: tuple[Any, Path]) -> None:
    tuned, folder = fine_tuned
    images = torch.randn(2, 3, 64, 64)
    maps = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    expected = tuned.forward_features(images)
    if expected.ndim == 4:
        assert torch.equal(maps(images)[-1], expected)
    else:
        assert maps(images)[-1].shape == (2, 384, 4, 4)


def test_a_fine_tuned_model_by_its_weights_alone(fine_tuned: tuple[Any, Path]) -> None:
    """As timm's train.py and its distillation name them: a model, and a file for its weights."""
    tuned, folder = fine_tuned
    name, options = KINDS[folder.name]
    file = str(folder / "model.safetensors")
    overlay = {"file": file, "num_classes": 7}
    model = timm.create_model(
        name, pretrained=True, num_classes=7, pretrained_cfg_overlay=overlay, **options
    )
    assert all(torch.equal(v, tuned.state_dict()[k]) for k, v in model.state_dict().items())
    overlay = {"file": file}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    assert same_backbone(model, tuned)
    with pytest.raises(ModelFolderError, match=r"classifier of 7 classes.*'num_classes': 7"):
        timm.create_model(
            name, pretrained=True, num_classes=7, pretrained_cfg_overlay=overlay, **options
        )


@pytest.mark.parametrize("key", ["fc.bias", "layer4.1.bn2.weight"])
def test_an_incomplete_fine_tuned_model_is_refused(tmp_path: Path, key: str) -> None:
    model = timm.create_model("resnet18_cassle_simclr", num_classes=7)
    save_for_hf(model, str(tmp_path / "whole"), safe_serialization=True)
    state = load_file(tmp_path / "whole/model.safetensors")
    del state[key]
    save_file(state, tmp_path / "whole/model.safetensors")
    with pytest.raises(RuntimeError, match=key):
        timm.create_model(f"local-dir:{tmp_path}/whole", pretrained=True)


@pytest.mark.parametrize("name", [name for name in MODEL_SPECS if not name.startswith("vit")])
def test_the_pool_size_is_that_of_the_last_feature_map(name: str) -> None:
    cfg: Any = timm.get_pretrained_cfg(name)
    assert cfg.pool_size == tuple(side // 32 for side in cfg.input_size[1:])


def test_pooling_at_test_time() -> None:
    model = timm.create_model("resnet18_cassle_simclr", num_classes=5).eval()
    images = torch.randn(2, 3, 96, 96)
    pooled, applied = apply_test_time_pool(model, {"input_size": (3, 96, 96)})
    assert applied
    assert pooled.eval()(images).shape == (2, 5)


def test_the_pool_size_of_a_folder_of_an_earlier_version(tmp_path: Path) -> None:
    bundled = bundled_folder(MODEL_SPECS["resnet18_cassle_simclr.emoji64"])
    folder = shutil.copytree(bundled, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["pretrained_cfg"]["pool_size"]
    (folder / "config.json").write_text(json.dumps(config))
    model: Any = cassle_zoo.create_model(f"local-dir:{folder}", pretrained=True)
    assert model.pretrained_cfg["pool_size"] == (2, 2)


def test_a_vit_has_no_pool_size() -> None:
    assert timm.get_pretrained_cfg("vit_small_cassle_mocov3").pool_size is None  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [{}, {"use_naflex": True}])
def test_the_meta_device_flow_gives_mocov3s_network(options: dict[str, Any]) -> None:
    name = "vit_small_cassle_mocov3"
    with torch.device("meta"):
        model: Any = timm.create_model(name, depth=2, **options)
    model.to_empty(device="cpu").init_weights()
    usual: Any = timm.create_model(name, depth=2, **options)
    bound = math.sqrt(6 / (3 * 16 * 16 + 384))
    for built in (model, usual):
        patches = getattr(built, "patch_embed", None) or built.embeds
        assert 0.95 * bound < patches.proj.weight.abs().max() <= bound
        assert not patches.proj.bias.any()
        qkv = built.blocks[0].attn.qkv.weight
        assert qkv.abs().max() <= math.sqrt(6 / (2 * 384))
    fixed = "embeds.pos_embed" if options else "pos_embed"
    assert torch.equal(model.state_dict()[fixed], usual.state_dict()[fixed])
    assert all(value.isfinite().all() for value in model.state_dict().values())
    if not options:
        assert has_sincos_positions(model.pos_embed)


def test_init_weights_again_leaves_the_positions() -> None:
    model: Any = timm.create_model("vit_small_cassle_mocov3", depth=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    assert torch.equal(model.pos_embed, before["pos_embed"])
    assert not torch.equal(model.blocks[0].attn.qkv.weight, before["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_pool": "avg"},
        pytest.param(
            {"in_chans": 1},
            marks=pytest.mark.skipif(
                Version(timm.__version__) < Version("1.0.31"),
                reason="timm cannot load any NaFlexVit for other channels",
            ),
        ),
    ],
)
def test_naflex_gives_the_same_features(options: dict[str, Any], tmp_path: Path) -> None:
    name = "vit_small_cassle_mocov3"
    options = {"depth": 1, "img_size": 64, **options}
    model: Any = timm.create_model(name, **options).eval()
    for key, value in model.state_dict().items():
        value.normal_(std=0.1, mean=float("norm" in key))
    save_for_hf(model, str(tmp_path), model_args=options, safe_serialization=True)
    flexible: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, use_naflex=True)
    assert isinstance(flexible, timm.models.NaFlexVit)
    images = torch.randn(2, options.get("in_chans", 3), 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(flexible.eval()(images), model(images), rtol=0, atol=1e-5)
        assert flexible(images[:, :, :32]).shape == (2, 384)


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 5}])
def test_naflex_of_a_model_folder(kwargs: dict[str, Any], tmp_path: Path) -> None:
    args: dict[str, Any] = {"num_heads": 12, "depth": 1, "img_size": 64}
    model: Any = timm.create_model("vit_small_patch16_224", num_classes=0, **args).eval()
    spec = dataclasses.replace(
        MODEL_SPECS["vit_small_cassle_mocov3.in100"], model_args=args, input_size=(3, 64, 64)
    )
    folder, state = tmp_path / "model", model.state_dict()
    config = make_config(spec, model, projector=None, training={})
    save_model_folder(folder, config=config, backbone_state=state, projector=None)
    kwargs = {"use_naflex": True, **kwargs}
    flexible: Any = cassle_zoo.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()
    assert type(flexible).__name__ == "NaFlexVit"
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = flexible.forward_head(flexible.forward_features(images), pre_logits=True)
        torch.testing.assert_close(found, model(images), rtol=0, atol=1e-5)
    del state["blocks.0.norm1.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"blocks\.0\.norm1\.bias"):
        cassle_zoo.create_model(f"local-dir:{folder}", pretrained=True, **kwargs)


def test_naflex_by_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMM_USE_NAFLEXVIT", "true")
    model = timm.create_model("vit_small_cassle_mocov3", depth=1)
    assert isinstance(model, timm.models.NaFlexVit)
