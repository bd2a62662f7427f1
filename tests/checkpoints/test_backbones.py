"""The backbones of solo-learn, lightly, and Facebook's MoCo."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from foreign_checkpoints import prefixed, randomise, resnet18
from torch import Tensor, nn

import cassle_zoo
from cassle_zoo.checkpoints.backbones import find_weights, identify_backbone
from cassle_zoo.checkpoints.identify import CheckpointFacts, IdentifiedCheckpoint, identify
from cassle_zoo.common.errors import (
    CheckpointError,
    ConfigError,
    ModelFolderError,
    UnknownNameError,
)
from cassle_zoo.hub.convert import ConvertOptions, convert_checkpoint
from cassle_zoo.hub.publish.verify import verify_folder
from cassle_zoo.zoo.vit import mocov3_vit

LIGHTNING = {"epoch": 1, "pytorch-lightning_version": "2.1.0", "optimizer_states": [{}]}
VIT = {"embed_dim": 384, "depth": 1, "num_classes": 0}


def convert(tmp_path: Path, checkpoint: Any, **options: Any) -> IdentifiedCheckpoint:
    torch.save(checkpoint, tmp_path / "c.pth")
    return convert_checkpoint(
        tmp_path / "c.pth", tmp_path / "out", name="mine", options=ConvertOptions(**options)
    )


def same_features(folder: Path, model: nn.Module, size: int = 64) -> bool:
    images = torch.randn(2, 3, size, size)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        return torch.allclose(loaded(images), model.eval()(images), rtol=0, atol=1e-5)


def test_facebooks_moco_v2(tmp_path: Path) -> None:
    model = resnet18()
    head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    state = {
        **prefixed("module.encoder_q.", model),
        **prefixed("module.encoder_q.fc.", head),
        **prefixed("module.encoder_k.", resnet18()),
        **prefixed("module.encoder_k.fc.", head),
        "module.queue": torch.randn(128, 16),
        "module.queue_ptr": torch.zeros(1, dtype=torch.int64),
    }
    found = convert(tmp_path, {"epoch": 200, "arch": "resnet18", "state_dict": state})
    assert same_features(tmp_path / "out", model)
    assert found.format == "MoCo-v2 (Facebook)"
    assert found.in_words() == "resnet18, mocov2, no projector"
    assert found.dropped == (
        "module.encoder_k (124 tensors)", "module.queue (1 tensor)",
        "module.queue_ptr (1 tensor)", "epoch, arch",
        "fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias",
    )  # fmt: skip
    info = cassle_zoo.model_info(f"local-dir:{tmp_path}/out")
    assert (info.method, info.mean[0], info.license) == ("mocov2", 0.485, "unknown")
    card = (tmp_path / "out/README.md").read_text()
    assert "nothing is known of its projector" in card
    assert "2306.06082" not in card
    assert "MoCo-v2 (Facebook); converted by cassle_zoo" in card
    with pytest.raises(ModelFolderError, match="no projector"):
        cassle_zoo.create_projector(f"local-dir:{tmp_path}/out")


def test_facebooks_moco_v1_has_one_linear_layer(tmp_path: Path) -> None:
    state = prefixed("module.encoder_q.", torchvision.models.resnet18(num_classes=128))
    found = convert(tmp_path, {"state_dict": state})
    assert found.in_words() == "resnet18, mocov1, no projector"
    assert found.dropped == ("fc.weight", "fc.bias")


@pytest.mark.parametrize("vit", [True, False])
def test_facebooks_moco_v3(tmp_path: Path, vit: bool) -> None:
    model: Any = randomise(mocov3_vit(**VIT, num_heads=12)) if vit else resnet18()
    if vit:  # the number of heads follows from the format alone
        model.pos_embed.data.normal_()
    name = "head" if vit else "fc"
    head = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8, affine=False))
    state = {
        **prefixed("module.base_encoder.", model),
        **prefixed(f"module.base_encoder.{name}.", head),
        **prefixed("module.momentum_encoder.", model),
        **prefixed("module.predictor.", head),
    }
    found = convert(tmp_path, {"epoch": 300, "state_dict": state, "optimizer": {"state": {}}})
    assert same_features(tmp_path / "out", model, 224 if vit else 64)
    assert found.format == "MoCo-v3 (Facebook)"
    assert any(part.startswith("module.momentum_encoder (") for part in found.dropped)
    assert f"{name}.0.weight" in found.dropped
    loaded: Any = timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True)
    if vit:
        assert loaded.blocks[0].attn.num_heads == 12


@pytest.mark.parametrize("prefix", ["backbone.", "encoder."])
def test_solo_learn(tmp_path: Path, prefix: str) -> None:
    model = resnet18()
    state = {
        **prefixed(prefix, model),
        **prefixed("classifier.", nn.Linear(512, 10)),
        **prefixed("projector.", nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 8))),
        **prefixed(f"momentum_{prefix}", resnet18()),
        "queue": torch.zeros(2, 8, 4),
    }
    settings = {"method": "mocov2plus", "backbone": {"name": "resnet18"}}
    found = convert(tmp_path, {**LIGHTNING, "state_dict": state, "hyper_parameters": settings})
    assert same_features(tmp_path / "out", model)
    assert (found.format, found.in_words()) == ("solo-learn", "resnet18, mocov2plus, no projector")
    assert "classifier (2 tensors)" in found.dropped
    assert "optimizer_states" in found.dropped[-1]


def test_another_word_for_the_method_in_the_name(tmp_path: Path) -> None:
    state = prefixed("backbone.", resnet18()) | prefixed("classifier.", nn.Linear(512, 10))
    settings = {"hyper_parameters": {"method": "mocov2plus"}}
    torch.save({**LIGHTNING, "state_dict": state, **settings}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"another name, or --method mocov2 if mocov2plus is"):
        identify(tmp_path / "c.pth", name="resnet18_mocov2")
    with pytest.raises(CheckpointError, match=r"says mocov2, .*; give another name\.$"):
        identify(tmp_path / "c.pth", name="resnet34_mocov2")
    facts = CheckpointFacts(method="mocov2")
    assert identify(tmp_path / "c.pth", facts, name="resnet18_mocov2").method == "mocov2"


@pytest.mark.parametrize(("positions", "heads"), [("sincos", 12), ("learned", 6)])
def test_the_heads_of_a_vit(tmp_path: Path, positions: str, heads: int) -> None:
    model: Any = randomise(mocov3_vit(**VIT, num_heads=heads))
    if positions == "learned":
        model.pos_embed.data.normal_()
    state = {**prefixed("backbone.", model), **prefixed("classifier.", nn.Linear(384, 10))}
    found = convert(tmp_path, {**LIGHTNING, "state_dict": state})
    assert same_features(tmp_path / "out", model, 224)
    assert found.notes[0].startswith(f"{heads} attention heads, as in ")


def test_solo_learns_mae_has_as_many_heads_as_moco_v3(tmp_path: Path) -> None:
    model: Any = randomise(mocov3_vit(**VIT, num_heads=12))
    model.pos_embed.data.normal_()
    state = {**prefixed("backbone.", model), **prefixed("classifier.", nn.Linear(384, 10))}
    convert(tmp_path, {**LIGHTNING, "state_dict": state, "hyper_parameters": {"method": "mae"}})
    assert same_features(tmp_path / "out", model, 224)


def test_fixed_positions_say_the_heads_also_where_the_architecture_is_named() -> None:
    arch = "vit_tiny_patch16_224"
    state = mocov3_vit(embed_dim=192, depth=12, num_heads=12, num_classes=0).state_dict()
    found = identify_backbone(state, arch=arch)
    assert found.model_args == {"num_heads": 12}
    assert found.notes == (
        "12 attention heads, as in MoCo-v3, whose fixed positions the file has (else give "
        "--num-heads)",
    )
    found = identify_backbone(state, arch=arch, num_heads=3)
    assert (found.model_args, found.notes) == ({"num_heads": 3}, ())
    found = identify_backbone(timm.create_model(arch).state_dict(), arch=arch)
    assert (found.model_args, found.notes) == ({}, ())


def test_a_vit_of_another_size(tmp_path: Path) -> None:
    model = randomise(mocov3_vit(**VIT, num_heads=3, img_size=32, patch_size=4))
    state = prefixed("student.backbone.", model)
    with pytest.raises(ConfigError, match="--size says 64, but the weights are for images of 32"):
        convert(tmp_path, state, num_heads=3, size=64)
    convert(tmp_path, state, num_heads=3)
    assert same_features(tmp_path / "out", model, 32)
    info = cassle_zoo.model_info(f"local-dir:{tmp_path}/out")
    assert info.input_size == (3, 32, 32)
    assert info.model_args == {"patch_size": 4, "img_size": 32, "depth": 1, "num_heads": 3}


def test_a_vit_that_averages_its_tokens(tmp_path: Path) -> None:
    model = randomise(mocov3_vit(**VIT, num_heads=6, global_pool="avg"))
    state = prefixed("backbone.vit.", model)
    # As timm's script writes it; by itself, this architecture takes the class token.
    convert(tmp_path, {"arch": "deit_small_patch16_224", "state_dict": state}, num_heads=6)
    assert same_features(tmp_path / "out", model, 224)


def test_lightly(tmp_path: Path) -> None:
    """Lightly's examples cut the classifier off with nn.Sequential, which renames everything."""
    model = resnet18()
    sequential = nn.Sequential(*list(model.children())[:-1])
    state = {
        **prefixed("backbone.", sequential),
        **prefixed("projection_head.", nn.Linear(512, 8)),
        **prefixed("backbone_momentum.", sequential),
        **prefixed("projection_head_momentum.", nn.Linear(512, 8)),
    }
    found = convert(tmp_path, {**LIGHTNING, "state_dict": state}, method="moco")
    assert same_features(tmp_path / "out", model)
    assert (found.format, found.in_words()) == ("lightly", "resnet18, moco, no projector")
    assert "backbone_momentum (120 tensors)" in found.dropped


@pytest.mark.parametrize("arch", ["resnet34", "resnet50", "wide_resnet50_2", "resnext50_32x4d"])
def test_other_resnets(tmp_path: Path, arch: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(arch)
    # Without convolutions, or such weights would end in infinity.
    state = {
        key: torch.tensor(0.5 if v.ndim == 1 else 0.0).expand(v.shape)
        for key, v in model.state_dict().items()
    }
    found = convert(tmp_path, state, data="stl10")
    assert found.in_words() == f"{arch}, unknown method, no projector"
    assert found.dropped == ("fc.weight", "fc.bias")
    assert found.notes == ()
    info = cassle_zoo.model_info(f"local-dir:{tmp_path}/out")
    assert (info.input_size, info.mean[0], info.data) == ((3, 96, 96), 0.43, "stl10")


@pytest.mark.parametrize("arch", [None, "resnet18"])
def test_weights_of_old_pytorch(tmp_path: Path, arch: str | None) -> None:
    """BatchNorms did not count batches before PyTorch 0.4.1."""
    network = resnet18()
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("batches_tracked")}
    convert(tmp_path, state, arch=arch)
    assert same_features(tmp_path / "out", network)


def test_any_timm_model_by_name(tmp_path: Path) -> None:
    model = randomise(timm.create_model("resnet10t", num_classes=0))
    state = {"net": 3, **prefixed("my.net.", model)}
    half = (0.5, 0.5, 0.5)
    found = convert(
        tmp_path, state, arch="resnet10t", prefix="my.net", size=32, mean=half, std=half
    )
    assert same_features(tmp_path / "out", model)
    assert found.notes == ()
    info = cassle_zoo.model_info(f"local-dir:{tmp_path}/out")
    assert (info.input_size, info.mean, info.std) == ((3, 32, 32), half, half)


def test_a_network_with_the_weights_of_another(tmp_path: Path) -> None:
    """Anti-aliasing has none of its own, but timm's training script says the architecture."""
    model = randomise(timm.create_model("resnetblur18", num_classes=0))
    checkpoint = {"arch": "resnetblur18.mine", "state_dict": model.state_dict()}
    with pytest.raises(CheckpointError, match=r"fit resnet18, but .* of resnetblur18, .*--arch"):
        convert(tmp_path, checkpoint)
    convert(tmp_path, checkpoint, arch="resnetblur18")
    assert same_features(tmp_path / "out", model)


def small(**changes: Any) -> dict[str, Tensor]:
    """The backbone of a resnet18 in which one number stands for each tensor."""
    state = torchvision.models.resnet18().state_dict()
    state = {f"backbone.{k}": torch.rand(()).expand(v.shape) for k, v in state.items()}
    return {**state, **changes}


@pytest.mark.parametrize(
    ("checkpoint", "options", "message"),
    [
        ([1], {}, "holds a list, not a dictionary"),
        ({"epoch": 3}, {}, "no dictionary of tensors.*it has epoch"),
        ({"state_dict": {}}, {}, "no dictionary of tensors"),
        ({"net.0.weight": torch.zeros(1)}, {}, r"no ResNet .*among net\.0\.weight.*--prefix"),
        (
            {**small(), **{k.replace("backbone", "teacher"): v for k, v in small().items()}},
            {}, r"several backbones, under 'backbone\.', 'teacher\.'; choose one with --prefix",
        ),
        (small(**{"backbone.conv1.weight": torch.zeros(64, 3, 3, 3)}), {}, "3x3, the stem for"),
        (small(**{"backbone.extra.weight": torch.zeros(1)}), {}, r"1 unexpected: extra\.weight"),
        ({k: v for k, v in small().items() if "bn1.bias" not in k}, {}, r"missing: bn1\.bias"),
        (
            small(**{"backbone.layer2.0.bn1.bias": torch.zeros(7)}), {},
            r"layer2\.0\.bn1\.bias is \(7,\), not \(128,\)",
        ),
        (
            small(**{"backbone.bn1.weight": torch.ones(64, dtype=torch.int8)}), {},
            r"bn1\.weight is int8, as quantised weights are",
        ),
        (small(**{"backbone.layer3.2.conv1.weight": torch.zeros(1)}), {}, "2, 3, 2.*not known"),
        (
            {
                "patch_embed.proj.weight": torch.zeros(768, 3, 2, 1, 1),  # patches of videos
                "blocks.0.attn.qkv.weight": torch.zeros(1),
            },
            {}, r"shape \(768, 3, 2, 1, 1\) and no pos_embed is not known.*--arch",
        ),
        (small(), {"prefix": "model"}, r"no weight begins with 'model\.'"),
        (
            small(), {"arch": "resnet50"},
            r"do not fit resnet50: .*missing.*; they are those of resnet18\.",
        ),
        (small(), {"descriptors": ("crop",)}, "only the checkpoints of the paper's code"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(
    tmp_path: Path, checkpoint: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path, checkpoint, **options)
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Unknown timm model 'resnet19'"):
        convert(tmp_path, small(), arch="resnet19")
    with pytest.raises(UnknownNameError, match="Unknown data 'in1k'"):
        ConvertOptions(data="in1k")
    with pytest.raises(ConfigError, match="size"):
        ConvertOptions(size=0)
    with pytest.raises(ConfigError, match="std"):
        ConvertOptions(std=(0.5, 0, 0.5))
    with pytest.raises(ConfigError, match="must divide the width 384"):
        convert(tmp_path, mocov3_vit(**VIT, num_heads=6).state_dict(), num_heads=7)


def lukemelas(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a timm EfficientNet under the names of lukemelas/EfficientNet-PyTorch."""
    blocks: dict[str, int] = {}
    inside = {"conv_dw": "_depthwise_conv", "se.conv_reduce": "_se_reduce"}
    inside |= {"se.conv_expand": "_se_expand", "conv_pwl": "_project_conv"}
    state = {}
    for key, value in own.items():
        parts = key.split(".")
        if parts[0] != "blocks":
            outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head"}
            outside |= {"bn2": "_bn1", "classifier": "_fc"}
            state[f"{outside[parts[0]]}.{parts[1]}"] = value
            continue
        number = blocks.setdefault(".".join(parts[:3]), len(blocks))
        layer, last = ".".join(parts[3:-1]), parts[-1]
        if parts[1] == "0":  # the first stage expands nothing
            names = inside | {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
        else:
            norms = {f"bn{n + 1}": f"_bn{n}" for n in range(3)}
            names = inside | norms | {"conv_pw": "_expand_conv"}
        state[f"_blocks.{number}.{names[layer]}.{last}"] = value
    return state


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
def test_the_moving_average_is_taken_as_timm_does(average: str) -> None:
    state = timm.create_model("test_resnet").state_dict()
    ema = {key: value + 1 for key, value in state.items()}
    found = find_weights({"state_dict": state, average: ema, "epoch": 3}, arch="test_resnet")
    assert found.entries == ("state_dict", "epoch")
    assert all(found.state[key] is value for key, value in ema.items())


@pytest.mark.parametrize("arch", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
@pytest.mark.parametrize("known", [True, False])
def test_efficientnet_pytorch(arch: str, known: bool) -> None:
    own = timm.create_model(arch).state_dict()
    state = lukemelas(own)
    found = find_weights({"state_dict": {f"net.{k}": v for k, v in state.items()}})
    assert (found.prefix, found.format) == ("net.", "EfficientNet-PyTorch")
    backbone = identify_backbone(found.state, arch=arch if known else None)
    assert backbone.timm_arch == arch
    assert sorted(backbone.dropped) == ["classifier.bias", "classifier.weight"]
    # By name: its BatchNorms have the same shapes, so that nothing else tells them apart.
    assert all(value is own[key] for key, value in backbone.state.items())


def test_efficientnets_that_pad_otherwise_see_something_else() -> None:
    """They have the same tensors, so nothing but their kind says that the weights do not fit."""
    state = lukemelas(timm.create_model("tf_efficientnet_lite0").state_dict())
    with pytest.raises(CheckpointError, match=r"pads as PyTorch .* those of tf_efficientnet_lite0"):
        identify_backbone(state, arch="efficientnet_lite0")


@pytest.mark.parametrize("arch", ["test_convnext", "test_efficientnet", "test_vit"])
def test_any_architecture_that_is_known(arch: str) -> None:
    """Its own names show the prefix, and whatever timm calls its classifier is left out."""
    state = timm.create_model(arch, in_chans=4).state_dict()
    found = find_weights({f"model.net.{k}": v for k, v in state.items()}, arch=arch)
    assert found.prefix == "model.net."
    backbone = identify_backbone(found.state, arch=arch)
    assert backbone.model_args == {"in_chans": 4}
    assert all(backbone.state[k].shape == v.shape for k, v in backbone.model.state_dict().items())
    with pytest.raises(CheckpointError, match=f"found no {arch} with timm's names"):
        find_weights({"a.b": torch.zeros(2)}, arch=arch)


def test_the_size_of_a_vit_that_is_known() -> None:
    state = timm.create_model("vit_tiny_patch16_224", img_size=64).state_dict()
    backbone = identify_backbone(state, arch="vit_tiny_patch16_224")
    assert backbone.model_args == {"img_size": 64}


def test_a_vit_that_is_built_for_another_size_than_usual(tmp_path: Path) -> None:
    model = randomise(timm.create_model("test_vit", num_classes=0))
    convert(tmp_path, model.state_dict(), arch="test_vit")
    assert cassle_zoo.model_info(f"local-dir:{tmp_path}/out").input_size == (3, 160, 160)
    assert same_features(tmp_path / "out", model, 160)


def test_images_of_one_channel(tmp_path: Path) -> None:
    model = randomise(timm.create_model("test_resnet", num_classes=0, in_chans=1))
    options: dict[str, Any] = {"arch": "test_resnet", "size": 32}
    with pytest.raises(ConfigError, match="1 channels, so --mean and --std must be 1 numbers"):
        convert(tmp_path, model.state_dict(), **options)
    convert(tmp_path, model.state_dict(), **options, mean=(0.5,), std=(0.2,))
    info = cassle_zoo.model_info(f"local-dir:{tmp_path}/out")
    assert (info.input_size, info.mean, info.std) == ((1, 32, 32), (0.5,), (0.2,))


def test_the_method_in_the_name_of_any_architecture(tmp_path: Path) -> None:
    model = randomise(timm.create_model("test_resnet", num_classes=0))
    torch.save(model.state_dict(), tmp_path / "c.pth")
    options = ConvertOptions(arch="test_resnet", size=32)
    found = convert_checkpoint(
        tmp_path / "c.pth", tmp_path / "out", name="test_resnet_simclr", options=options
    )
    assert found.method == "simclr"
    assert all(check.passed for check in verify_folder(tmp_path / "out"))
