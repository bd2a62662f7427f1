import pytest
import timm
import torch
from torch import nn

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.augmented.stages import embed_stages
from cassle_zoo.features.inference import embed


@torch.no_grad()
def test_stages_of_a_resnet():
    model = timm.create_model("resnet18", num_classes=0).eval()
    images = torch.randn(2, 3, 32, 32)
    stages = embed_stages(model, images)
    assert list(stages) == ["act1", "layer1", "layer2", "layer3", "layer4", "backbone"]
    assert [value.shape[1] for value in stages.values()] == [64, 64, 128, 256, 512, 512]
    assert torch.equal(stages["backbone"], embed(model, images))
    torch.testing.assert_close(stages["layer4"], stages["backbone"])
    stem = model.act1(model.bn1(model.conv1(images)))
    torch.testing.assert_close(stages["act1"], stem.mean((2, 3)))
    assert not any(module._forward_hooks for module in model.modules())


@torch.no_grad()
def test_stages_of_a_vit_leave_the_class_token_out():
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32, depth=2, weight_init="moco"
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    stages = embed_stages(model, images)
    assert list(stages) == ["patch_embed", "blocks.0", "blocks.1", "backbone"]
    torch.testing.assert_close(stages["patch_embed"], model.patch_embed(images).mean(1))
    torch.testing.assert_close(
        stages["blocks.1"], model.forward_intermediates(images)[1][-1].mean((2, 3))
    )


@torch.no_grad()
def test_channels_last_stages_and_modules_without():
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=64).eval()
    stages = embed_stages(model, torch.randn(1, 3, 64, 64))
    assert stages["layers.3"].shape == stages["backbone"].shape == (1, 768)
    assert list(embed_stages(nn.Flatten(), torch.randn(2, 3, 4, 4))) == ["backbone"]


def test_a_stage_of_another_shape():
    model = nn.Sequential(nn.Flatten())
    model.feature_info = [{"module": "0", "num_chs": 5}]
    with pytest.raises(ConfigError, match=r"stage 0 yields \(2, 48\)"):
        embed_stages(model, torch.randn(2, 3, 4, 4))
    assert not model[0]._forward_hooks
