import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.errors import CassleZooError, UnknownNameError
from cassle_zoo.hub.export import export_run
from cassle_zoo.train.backbone import backbone_width, build_backbone
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.methods import Views
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.run import export as final
from cassle_zoo.train.trainer import build_method


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match=r"'vit_smal'\. Did you mean 'vit_small'"):
        build_backbone("vit_smal", 224)


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [
        ("resnet1", 64, "Unknown arch 'resnet1'. Did you mean 'resnet"),
        ("vit_small", 100, "augment.size 100 is not a multiple of the 16 px patches .* 96 or 112"),
        (
            "xcit_nano_12_p16_224",
            100,
            "'xcit_nano_12_p16_224' cannot be built .* 100: .*patch_size",
        ),
    ],
)
def test_bad_networks_fail_when_the_configuration_is_made(
    arch: str, size: int, message: str
) -> None:
    with pytest.raises(CassleZooError, match=message):
        TrainConfig(name="mine", arch=arch, augment=AugmentConfig(size=size))


@pytest.mark.parametrize("arch", ["test_resnet", "vit_small", "convnext_atto"])
def test_width_of_features(arch: str) -> None:
    assert backbone_width(arch, 32) == build_backbone(arch, 32).num_features


def test_mocov3_vits_are_frozen_where_they_should_be() -> None:
    model: Any = build_backbone("vit_small", 64)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert model.blocks[0].attn.num_heads == 12
    assert all(p.requires_grad for p in build_backbone("resnet18", 64).parameters())


def test_a_trained_vit_is_exported_with_its_heads_and_size(tmp_path: Path) -> None:
    config = TrainConfig(
        name="vit_small_cassle_simclr.mine", arch="vit_small", augment=AugmentConfig(size=32)
    )
    method = build_method(dataclasses.replace(config))
    run = tmp_path / "run"
    run.mkdir()
    final.write(run / "final", method, final.describe(method, config, steps=1, total=1))
    folder = export_run(run, tmp_path / "out", dtype=torch.float32)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), method.backbone.eval()(images))
    assert load_file(folder / "model.safetensors")["pos_embed"].shape == (1, 5, 384)


def test_mocov3_leaves_the_fixed_parts_of_a_vit_alone() -> None:
    method = MoCoV3Config(hidden_features=16, out_features=8, predictor_features=16)
    augment = AugmentConfig(size=32)
    config = TrainConfig(name="mine", arch="vit_small", method=method, augment=augment)
    model = build_method(config)
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    groups = model.param_groups()
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
    images, omegas = torch.randn(2, 4, 3, 32, 32), torch.rand(2, 4, 13)
    loss, _ = model(Views(images=(images[0], images[1]), descriptors=(omegas[0], omegas[1])))
    loss.backward()
    optimizer.step()
    same = {key for key, value in model.backbone.state_dict().items() if value.equal(before[key])}
    assert same == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_views_smaller_than_the_stride_are_named() -> None:
    with pytest.warns(UserWarning, match=r"augment\.size 7 is less .* 32 px.*at least 32"):
        build_backbone("resnet18", 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_backbone("resnet18", 32)
        build_backbone("test_vit", 16)
