import json
from pathlib import Path

import pytest
import timm
import torch

from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.hub.detectron2 import detectron2_name, detectron2_state, export_detectron2
from cassle_zoo.zoo.create import create_model

MODEL = "resnet50_cassle_simclr.emoji64"
GOLDEN = Path(__file__).parents[1] / "golden" / "detectron2_r50_c4.json"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("detectron2") / "new" / "r50.pth"
    export_detectron2(MODEL, path)
    assert [found.name for found in path.parent.iterdir()] == ["r50.pth"]
    return path


def test_every_weight_of_the_detector_is_found(file):
    content = torch.load(file, weights_only=True)
    assert (content["matching_heuristics"], content["__author__"]) == (True, "cassle-zoo")
    weights = content["model"]
    expected = json.loads(GOLDEN.read_text())
    # Detectron2's rule: the name in the file is the end of the name in the detector.
    found = {
        name: [own for own in weights if name == own or name.endswith(f".{own}")]
        for name in expected
    }
    assert all(len(own) == 1 for own in found.values())
    assert sorted(own for (own,) in found.values()) == sorted(weights)
    assert {name: list(weights[own].shape) for name, (own,) in found.items()} == expected
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_values_are_those_of_the_model(file):
    weights = torch.load(file, weights_only=True)["model"]
    state = create_model(MODEL, pretrained=True).state_dict()
    for ours, theirs in {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.downsample.0.weight": "res2.0.shortcut.weight",
        "layer2.0.downsample.1.bias": "res3.0.shortcut.norm.bias",
        "layer4.2.bn3.weight": "res5.2.conv3.norm.weight",
    }.items():
        assert detectron2_name(ours) == theirs
        assert torch.equal(weights[theirs], state[ours].float())


@pytest.mark.parametrize(
    "arch", ["resnet18", "resnet101", "wide_resnet50_2", "vit_tiny_patch16_224"]
)
def test_other_networks_are_refused(arch):
    with torch.device("meta"):
        state = timm.create_model(arch, num_classes=0).state_dict()
    with pytest.raises(ConfigError, match="takes a ResNet-50"):
        detectron2_state(state)


def test_wrong_ending(tmp_path):
    with pytest.raises(ConfigError, match=r"r50\.pkl must end in \.pth"):
        export_detectron2(MODEL, tmp_path / "r50.pkl")


def test_command_prints_the_settings(tmp_path, capsys):
    assert main(["hub", "export-detectron2", MODEL, "-o", str(tmp_path / "r50.pth")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'MODEL.WEIGHTS "r50.pth"'
    assert 'MODEL.PIXEL_MEAN "[127.5, 127.5, 127.5]"' in lines
    assert 'INPUT.FORMAT "RGB"' in lines


def test_settings_are_those_of_the_network(monkeypatch, tmp_path):
    network = timm.create_model("resnet50", num_classes=0)
    monkeypatch.setattr("cassle_zoo.hub.detectron2.create_model", lambda *_, **__: network)
    assert export_detectron2("timm:resnet50", tmp_path / "r50.pth") == {
        "MODEL.WEIGHTS": "r50.pth",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "INPUT.FORMAT": "RGB",
    }


def test_a_network_of_the_same_weights_is_refused(monkeypatch, tmp_path):
    """Anti-aliasing by average pooling has none of its own."""
    network = timm.create_model("resnetaa50", num_classes=0)
    detectron2_state(network.state_dict())
    monkeypatch.setattr("cassle_zoo.hub.detectron2.create_model", lambda *_, **__: network)
    with pytest.raises(ConfigError, match=r"resnetaa50 has the weights .* AvgPool2d, expected"):
        export_detectron2("timm:resnetaa50", tmp_path / "r50.pth")
    assert not (tmp_path / "r50.pth").exists()
