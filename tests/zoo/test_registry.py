"""What timm users expect of a model works with ours, and wrong weights never load silently."""

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn

import cassle_zoo
from cassle_zoo.common.errors import (
    ChecksumError,
    ModelFolderError,
    UnknownNameError,
    WeightsUnavailableError,
)
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store import folder as model_folder
from cassle_zoo.store.folder import MODEL_FILE
from cassle_zoo.zoo import registry

NAME = "resnet18_cassle_simclr.emoji64"
UNRELEASED = "resnet50_cassle_simclr.in100"
RELEASED = [name for name, spec in MODEL_SPECS.items() if spec.released]


@functools.cache
def _weights() -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = timm.create_model("resnet18", num_classes=0).state_dict()
    return {
        key: torch.rand(value.shape).half() if value.is_floating_point() else torch.tensor(3)
        for key, value in shapes.items()
    }


def backbone_state() -> dict[str, Tensor]:
    """Random weights, running statistics included, exact in half precision."""
    return {key: value.clone() for key, value in _weights().items()}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    built: nn.Module = timm.create_model(NAME).eval()
    return built


def test_timm_lists_the_models_with_tags() -> None:
    assert {spec.name for spec in MODEL_SPECS.values()} <= set(timm.list_models())
    assert set(timm.list_models("*cassle*", include_tags=True)) == {
        name for name, spec in MODEL_SPECS.items() if spec.conditioned
    }
    assert timm.is_model("resnet50_cassle_simclr")
    assert timm.is_model(UNRELEASED)
    released: Any = timm.get_pretrained_cfg("resnet50_cassle_simclr")
    unreleased: Any = timm.get_pretrained_cfg(UNRELEASED)
    assert (released.tag, unreleased.input_size) == ("emoji64", (3, 224, 224))


def test_timm_lists_exactly_the_released_models_as_pretrained() -> None:
    """The default tag stays the first one, even if only another has weights."""
    code = f"""
import dataclasses
from cassle_zoo.specs import MODEL_SPECS
MODEL_SPECS[{NAME!r}] = dataclasses.replace(MODEL_SPECS[{NAME!r}], sha256={{}})
for name, sha256 in {{
    {UNRELEASED!r}: None, "resnet18_simclr.emoji64": None, "resnet18_simclr.stl10": {{}}
}}.items():
    MODEL_SPECS[name] = dataclasses.replace(MODEL_SPECS[name], sha256=sha256)
import timm, cassle_zoo
names = [name for name, spec in MODEL_SPECS.items() if spec.released]
assert {{{NAME!r}, "resnet18_simclr.stl10"}} <= set(names) == set(timm.list_pretrained("*_simclr*"))
assert timm.models.is_model_pretrained({NAME!r})
assert timm.get_pretrained_cfg("resnet18_simclr").tag == "emoji64"
assert not timm.models.is_model_pretrained("resnet18_simclr")
assert not timm.models.is_model_pretrained({UNRELEASED!r})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(cassle_zoo.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_registering_again_does_nothing() -> None:
    before = timm.models.model_entrypoint(NAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.register_models()
    assert timm.models.model_entrypoint(NAME) is before


def test_a_model_is_a_headless_timm_model(model: nn.Module) -> None:
    assert isinstance(model, timm.models.ResNet)
    assert (model.num_classes, model.num_features) == (0, 512)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 512)
    assert model.forward_features(torch.zeros(2, 3, 64, 64)).shape == (2, 512, 2, 2)
    assert timm.create_model("resnet50_simclr").num_features == 2048


def test_the_data_config_is_the_specs(model: nn.Module) -> None:
    spec = MODEL_SPECS[NAME]
    assert resolve_model_data_config(model) == {
        "input_size": spec.input_size,
        "interpolation": spec.interpolation,
        "mean": spec.mean,
        "std": spec.std,
        "crop_pct": spec.crop_pct,
        "crop_mode": "center",
    }


def test_timm_arguments() -> None:
    images = torch.zeros(2, 1, 64, 64)
    model: Any = timm.create_model(NAME, num_classes=7, in_chans=1, global_pool="max").eval()
    assert model(images).shape == (2, 7)
    model.reset_classifier(0, "")
    assert model(images).shape == (2, 512, 2, 2)
    model.reset_classifier(3, "avg")
    assert model(images).shape == (2, 3)


@pytest.mark.parametrize("num_classes", [0, 10])
def test_features_only(num_classes: int) -> None:
    model: Any = timm.create_model(
        NAME, features_only=True, out_indices=(1, 4), num_classes=num_classes
    ).eval()
    maps = model(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == model.feature_info.channels() == [64, 512]
    assert [64 // m.shape[-1] for m in maps] == model.feature_info.reduction() == [4, 32]


def test_the_model_compiles_without_graph_breaks(model: nn.Module) -> None:
    images = torch.rand(2, 3, 64, 64)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))


def test_the_model_exports(model: nn.Module) -> None:
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        program = torch.export.export(model, (images,))
        torch.testing.assert_close(program.module()(images), model(images))


def test_the_model_exports_to_onnx(model: nn.Module, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    images = torch.rand(2, 3, 64, 64)
    torch.onnx.export(model, (images,), tmp_path / "m.onnx", input_names=["x"], verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(
        torch.from_numpy(session.run(None, {"x": images.numpy()})[0]), expected
    )


@pytest.mark.parametrize("name", [NAME, NAME.partition(".")[0]])
def test_pretrained_loads_every_weight_in_float32(publish: Any, name: str) -> None:
    state = backbone_state()
    publish(NAME, state)
    loaded = timm.create_model(name, pretrained=True).state_dict()
    assert loaded.keys() == state.keys()
    for key, value in loaded.items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, state[key].to(value.dtype)), key


def test_pretrained_with_classifier_channels_and_feature_maps(publish: Any) -> None:
    state = backbone_state()
    publish(NAME, state)
    model: Any = timm.create_model(NAME, pretrained=True, num_classes=5, in_chans=1)
    assert model.fc.weight.shape == (5, 512)
    assert torch.equal(model.layer4[1].bn2.running_var, state["layer4.1.bn2.running_var"].float())
    torch.testing.assert_close(
        model.conv1.weight, state["conv1.weight"].float().sum(1, keepdim=True)
    )
    maps = timm.create_model(NAME, pretrained=True, features_only=True, num_classes=5)
    weight = maps.state_dict()["layer2.0.conv1.weight"]
    assert torch.equal(weight, state["layer2.0.conv1.weight"].float())


def test_a_changed_file_is_refused(publish: Any) -> None:
    path = publish(NAME, backbone_state())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"model\.safetensors is not the published file"):
        timm.create_model(NAME, pretrained=True)


def test_the_hash_is_checked_when_timm_hands_over_a_resolved_config(publish: Any) -> None:
    path = publish(NAME, backbone_state())
    cfg: Any = timm.create_model(NAME, pretrained=True).pretrained_cfg
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ChecksumError):
        timm.create_model(NAME, pretrained=True, pretrained_cfg=cfg)
    with pytest.raises(ChecksumError):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"crop_pct": 0.9})


def test_a_missing_file_is_refused(publish: Any) -> None:
    publish(NAME, backbone_state()).unlink()
    with pytest.raises(ModelFolderError, match=r"model\.safetensors is missing"):
        timm.create_model(NAME, pretrained=True)


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 5}, {"features_only": True}])
def test_a_file_that_lacks_a_weight_is_refused(publish: Any, kwargs: dict[str, Any]) -> None:
    state = backbone_state()
    del state["layer3.0.bn1.running_mean"]
    publish(NAME, state)
    with pytest.raises(ModelFolderError, match=r"1 missing: layer3\.0\.bn1\.running_mean"):
        timm.create_model(NAME, pretrained=True, **kwargs)


def test_a_file_with_a_foreign_weight_is_refused(publish: Any) -> None:
    publish(NAME, {**backbone_state(), "extra.weight": torch.zeros(1)})
    with pytest.raises(ModelFolderError, match=r"1 unexpected: extra\.weight"):
        timm.create_model(NAME, pretrained=True, num_classes=5)


def test_an_argument_that_changes_the_architecture_is_refused(publish: Any) -> None:
    publish(NAME, backbone_state())
    with pytest.raises(ModelFolderError, match=r"missing.*unexpected.*architecture"):
        timm.create_model(NAME, pretrained=True, stem_type="deep", num_classes=5)


@pytest.mark.parametrize(
    "name", [UNRELEASED, "resnet18_simclr.stl10", "vit_small_cassle_mocov3.in100"]
)
def test_unpublished_weights_are_an_error_that_says_how_to_get_them(name: str) -> None:
    assert not MODEL_SPECS[name].released
    command = f"cassle-zoo train {name} --data PATH --out RUN"
    for kwargs in ({}, {"num_classes": 3}, {"features_only": True}):
        with pytest.raises(WeightsUnavailableError, match=command) as caught:
            timm.create_model(name, pretrained=True, **kwargs)
    assert "cassle-zoo hub export RUN" in str(caught.value)
    assert timm.create_model(name, num_classes=3).num_classes == 3


def test_an_unknown_tag_lists_the_tags() -> None:
    with pytest.raises(UnknownNameError, match="emoji64, stl10"):
        timm.create_model("resnet18_cassle_simclr.in1k")


def test_users_can_point_timm_at_their_own_file(tmp_path: Path) -> None:
    state = backbone_state()
    save_file(state, tmp_path / "mine.safetensors")
    overlay = {"file": str(tmp_path / "mine.safetensors")}
    name = UNRELEASED.replace("50", "18").replace("in100", "stl10")
    model: Any = timm.create_model(name, True, pretrained_cfg_overlay=overlay)
    assert torch.equal(model.conv1.weight, state["conv1.weight"].float())
    del state["bn1.bias"]
    save_file(state, tmp_path / "mine.safetensors")
    with pytest.raises(ModelFolderError, match=r"bn1\.bias"):
        timm.create_model(NAME, True, pretrained_cfg_overlay=overlay, num_classes=4)


@pytest.mark.parametrize("name", RELEASED)
def test_bundled_weights_load(name: str) -> None:
    state = load_file(model_folder.bundled_folder(MODEL_SPECS[name]) / MODEL_FILE)
    model = timm.create_model(name, pretrained=True).eval()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key
    features = model(torch.rand(2, *MODEL_SPECS[name].input_size))
    assert features.isfinite().all()
    assert features.std() > 0


@pytest.mark.parametrize("name", RELEASED)
def test_bundled_weights_load_as_feature_maps(name: str) -> None:
    """timm's feature extractor of EfficientNets leaves out the last layers."""
    spec = MODEL_SPECS[name]
    state = load_file(model_folder.bundled_folder(spec) / MODEL_FILE)
    model = timm.create_model(name, pretrained=True, features_only=True).eval()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key
    assert len(model(torch.rand(1, *spec.input_size))) == 5
