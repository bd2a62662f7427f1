import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import cassle_zoo
from cassle_zoo.common.errors import (
    ChecksumError,
    ConfigError,
    ModelFolderError,
    UnknownNameError,
    WeightsUnavailableError,
)
from cassle_zoo.common.files import sha256
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store import folder as model_folder
from cassle_zoo.store.folder import CONFIG_FILE, MODEL_FILE, PROJECTOR_FILE
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.zoo.registry import make_config

NAME = "resnet18_cassle_simclr.emoji64"
RELEASED = [name for name, spec in MODEL_SPECS.items() if spec.released]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, of a user's own run."""
    spec = dataclasses.replace(MODEL_SPECS[NAME], tag="mine", data="my photos")
    backbone = timm.create_model("resnet18", num_classes=0)
    projector = cassle_zoo.create_projector(NAME)
    return save_model_folder(
        tmp_path_factory.mktemp("models") / "mine",
        config=make_config(
            spec,
            backbone,
            projector=projector.config,
            training={"data": "my photos", "recipe": NAME},
        ),
        backbone_state=backbone.state_dict(),
        projector=projector,
        dtype=torch.float16,
    )


@pytest.fixture
def released(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder as the bundled weights of NAME."""
    bundled = tmp_path / NAME
    bundled.mkdir()
    for path in folder.iterdir():
        (bundled / path.name).write_bytes(path.read_bytes())
    hashes = {path.name: sha256(path) for path in bundled.iterdir()}
    monkeypatch.setattr(model_folder, "WEIGHTS_ROOT", tmp_path)
    monkeypatch.setitem(MODEL_SPECS, NAME, dataclasses.replace(MODEL_SPECS[NAME], sha256=hashes))
    return bundled


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (
            "resnet18_cassle_simclr",
            ["resnet18_cassle_simclr.emoji64", "resnet18_cassle_simclr.stl10"],
        ),
        (
            "resnet50_cassle_s*",
            ["resnet50_cassle_simclr.emoji64", "resnet50_cassle_simclr.in100"],
        ),
        ("*50*_simclr.in100", ["resnet50_cassle_simclr.in100", "resnet50_simclr.in100"]),
        ("vit_small*", ["vit_small_cassle_mocov3.in100", "vit_small_mocov3.in100"]),
        ("convnext*", []),
    ],
)
def test_list_models(pattern: str, expected: list[str]) -> None:
    assert cassle_zoo.list_models(pattern) == expected


def test_list_models_agrees_with_timm() -> None:
    assert cassle_zoo.list_models() == sorted(MODEL_SPECS)
    assert cassle_zoo.list_models("*cassle*") == timm.list_models("*cassle*", include_tags=True)


def test_list_models_that_have_weights(released: Path) -> None:
    assert NAME in cassle_zoo.list_models(pretrained=True)
    assert "resnet50_cassle_simclr.in100" not in cassle_zoo.list_models(pretrained=True)
    assert cassle_zoo.list_models("resnet18_cassle*", pretrained=True) == [NAME]


def test_model_info() -> None:
    info = cassle_zoo.model_info("resnet50_cassle_simclr.in100")
    assert (info.num_features, info.input_size, info.released) == (2048, (3, 224, 224), False)
    assert cassle_zoo.model_info("resnet50_cassle_simclr").tag == "emoji64"
    with pytest.raises(UnknownNameError, match="resnet50_cassle_simclr"):
        cassle_zoo.model_info("resnet50_cassle")


def test_model_info_of_a_folder(folder: Path) -> None:
    info = cassle_zoo.model_info(f"local-dir:{folder}")
    expected = dataclasses.replace(
        MODEL_SPECS[NAME],
        tag="mine",
        data="my photos",
        sha256={f: sha256(folder / f) for f in (MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE)},
    )
    assert info == expected


@pytest.mark.parametrize("name", [NAME, "resnet18_cassle_simclr"])
def test_a_name_builds_the_timm_model(name: str) -> None:
    model: Any = cassle_zoo.create_model(name, num_classes=4, in_chans=1)
    assert issubclass(type(model), timm.models.ResNet)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 4)
    assert model.pretrained_cfg["tag"] == "emoji64"


def test_unknown_names_suggest_near_ones() -> None:
    for create in (cassle_zoo.create_model, cassle_zoo.create_projector):
        with pytest.raises(UnknownNameError, match="Did you mean 'resnet18_cassle_simclr'"):
            create("resnet18_casle_simclr")
        with pytest.raises(UnknownNameError, match="emoji64, stl10"):
            create("resnet18_cassle_simclr.in100")


def test_bundled_weights_are_loaded(released: Path) -> None:
    model = cassle_zoo.create_model("resnet18_cassle_simclr", pretrained=True)
    projector = cassle_zoo.create_projector("resnet18_cassle_simclr", pretrained=True)
    for module, file in ((model, MODEL_FILE), (projector, PROJECTOR_FILE)):
        state = load_file(released / file)
        assert module.state_dict().keys() == state.keys()
        for key, value in module.state_dict().items():
            assert torch.equal(value, state[key].to(value.dtype)), key
    projections = projector.eval()(torch.rand(3, 512), torch.rand(3, 13))
    assert projections.shape == (3, 128)


@pytest.mark.parametrize("file", [PROJECTOR_FILE, CONFIG_FILE])
def test_a_changed_projector_is_refused(released: Path, file: str) -> None:
    (released / file).write_bytes((released / file).read_bytes() + b" ")
    with pytest.raises(ChecksumError, match=file):
        cassle_zoo.create_projector(NAME, pretrained=True)


def test_unpublished_weights_are_an_error() -> None:
    name = "resnet50_cassle_simclr.in100"
    with pytest.raises(WeightsUnavailableError, match=f"cassle-zoo train {name}"):
        cassle_zoo.create_model(name, pretrained=True)
    with pytest.raises(WeightsUnavailableError, match=f"cassle-zoo train {name}"):
        cassle_zoo.create_projector(name, pretrained=True)


def test_untrained_projectors_have_the_papers_shape() -> None:
    conditioned = cassle_zoo.create_projector("resnet50_cassle_simclr").config
    assert (conditioned.in_features, conditioned.hidden, conditioned.out_features) == (
        2048,
        2048,
        128,
    )
    assert (conditioned.conditioning, len(conditioned.descriptors)) == ("cat", 5)
    plain = cassle_zoo.create_projector("resnet50_simclr").config
    assert (plain.conditioning, plain.descriptors) == ("none", ())


def test_a_folder_is_loaded(folder: Path) -> None:
    name, state = f"local-dir:{folder}", load_file(folder / MODEL_FILE)
    model: Any = cassle_zoo.create_model(name, pretrained=True, num_classes=6)
    assert model.fc.weight.shape == (6, 512)
    assert all(
        torch.equal(v, state[k].to(v.dtype)) for k, v in model.state_dict().items() if k in state
    )
    maps: Any = cassle_zoo.create_model(name, pretrained=True, features_only=True, num_classes=6)
    assert torch.equal(maps.state_dict()["conv1.weight"], state["conv1.weight"].float())
    projector = cassle_zoo.create_projector(name, pretrained=True)
    stored = load_file(folder / PROJECTOR_FILE)
    assert torch.equal(projector.state_dict()["layers.0.weight"], stored["layers.0.weight"].float())
    untrained = cassle_zoo.create_projector(name)
    assert untrained.config == projector.config
    assert not torch.equal(
        untrained.state_dict()["layers.0.weight"], stored["layers.0.weight"].float()
    )


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 6}])
def test_an_incomplete_folder_is_refused(
    folder: Path, tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    (tmp_path / CONFIG_FILE).write_bytes((folder / CONFIG_FILE).read_bytes())
    name = f"local-dir:{tmp_path}"
    with pytest.raises(ModelFolderError, match=r"model\.safetensors is missing"):
        cassle_zoo.create_model(name, pretrained=True, **kwargs)
    state = load_file(folder / MODEL_FILE)
    save_file({k: v for k, v in state.items() if k != "bn1.bias"}, tmp_path / MODEL_FILE)
    with pytest.raises(ModelFolderError, match=r"bn1\.bias"):
        cassle_zoo.create_model(name, pretrained=True, **kwargs)
    with pytest.raises(ModelFolderError, match=r"projector\.safetensors is missing"):
        cassle_zoo.create_projector(name, pretrained=True)
    assert cassle_zoo.create_model(name)


def test_feature_maps_need_every_weight(tmp_path: Path) -> None:
    """timm's feature extractor of EfficientNets would take what it finds."""
    arch = "test_efficientnet"
    backbone: Any = timm.create_model(arch, num_classes=0)
    spec = dataclasses.replace(
        MODEL_SPECS[NAME], tag="mine", timm_arch=arch, num_features=backbone.num_features
    )
    state = backbone.state_dict()
    folder = save_model_folder(
        tmp_path / "model",
        config=make_config(spec, backbone, projector=None, training={}),
        backbone_state=state,
        projector=None,
    )
    name = f"local-dir:{folder}"
    maps = cassle_zoo.create_model(name, pretrained=True, features_only=True)
    assert all(torch.equal(value, state[key]) for key, value in maps.state_dict().items())
    save_file({k: v for k, v in state.items() if k != "bn1.bias"}, folder / MODEL_FILE)
    with pytest.raises(ModelFolderError, match=r"1 missing: bn1\.bias"):
        cassle_zoo.create_model(name, pretrained=True, features_only=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [("local-dir:", "names no folder"), ("local-dir:/nowhere", "/nowhere does not exist")],
)
def test_a_folder_that_is_none_is_refused(name: str, message: str) -> None:
    calls = (cassle_zoo.create_model, cassle_zoo.create_projector, cassle_zoo.model_info)
    for call in calls:
        with pytest.raises(ModelFolderError, match=message):
            call(name)


def test_an_architecture_that_timm_lacks_is_refused(folder: Path, tmp_path: Path) -> None:
    text = (folder / CONFIG_FILE).read_text().replace('"resnet18"', '"resnet19"')
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(ModelFolderError, match=r"timm .* has no model 'resnet19'"):
        cassle_zoo.create_model(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_args": {"nonsense": 1}}, "TypeError.*nonsense"),
        ({"model_args": {"block": "basic"}}, "AttributeError"),
        ({"model_args": {"act_layer": "magic"}}, "KeyError.*magic"),
        ({"model_args": {"output_stride": 5}}, "AssertionError"),
        ({"model_args": {"layers": [1]}}, "Error"),
        ({"pretrained_cfg": {"magic": 1}}, "TypeError.*magic"),
    ],
)
@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 3}])
def test_a_configuration_that_timm_cannot_build_is_to_blame(
    folder: Path, tmp_path: Path, values: dict[str, Any], reason: str, kwargs: dict[str, Any]
) -> None:
    config = model_folder.read_config(folder)
    values = {k: {**config.get(k, {}), **v} for k, v in values.items()}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**config, **values}))
    with pytest.raises(ModelFolderError, match=rf"config\.json: timm .* cannot build .*{reason}"):
        cassle_zoo.create_model(f"local-dir:{tmp_path}", **kwargs)


def test_a_configuration_that_breaks_the_loading_is_to_blame(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / MODEL_FILE)
    state["conv1.0.weight"] = state.pop("conv1.weight")  # as other kinds of resnet name it
    save_file(state, tmp_path / MODEL_FILE)
    config = model_folder.read_config(folder)
    config["pretrained_cfg"] |= {"first_conv": "conv1.0"}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    assert cassle_zoo.create_model(f"local-dir:{tmp_path}").num_features == 512
    # What fails differs between versions of timm.
    with pytest.raises(ModelFolderError, match=r"cannot (build .*AttributeError|be loaded)"):
        cassle_zoo.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_arguments_that_timm_does_not_take_are_the_callers_mistake(folder: Path) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        cassle_zoo.create_model(f"local-dir:{folder}", pretrained=True, nonsense=1)


def test_the_width_of_the_features_is_that_of_the_model(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / MODEL_FILE, tmp_path)
    config = {**model_folder.read_config(folder), "num_features": 511}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    for pretrained in (False, True):
        with pytest.raises(ModelFolderError, match="num_features is 511, but the model has 512"):
            cassle_zoo.create_model(f"local-dir:{tmp_path}", pretrained)


def test_errors_are_what_callers_expect() -> None:
    assert issubclass(UnknownNameError, ValueError)
    assert issubclass(WeightsUnavailableError, RuntimeError)
    assert issubclass(ConfigError, cassle_zoo.CassleZooError)


@pytest.mark.parametrize("name", RELEASED)
def test_bundled_projectors_load(name: str) -> None:
    projector = cassle_zoo.create_projector(name, pretrained=True).eval()
    spec = MODEL_SPECS[name]
    features = torch.rand(2, spec.num_features)
    omega = torch.rand(2, projector.layout.width)
    with torch.no_grad():
        projections = projector(features, omega)
        moved = (projections - projector(features, omega.flip(0))).abs().max()
    assert projections.isfinite().all()
    assert (moved > 0) == spec.conditioned
