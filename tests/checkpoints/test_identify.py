"""Checkpoints of our trainer, of loops around our projector, and of self-distillation."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from foreign_checkpoints import prefixed, randomise, resnet18
from safetensors.torch import load_file
from torch import Tensor, nn

import cassle_zoo
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.checkpoints.identify import CheckpointFacts, identify
from cassle_zoo.checkpoints.run_checkpoint import save_checkpoint
from cassle_zoo.common.errors import CheckpointError
from cassle_zoo.hub.convert import ConvertOptions, convert_checkpoint
from cassle_zoo.hub.publish.verify import verify_folder
from cassle_zoo.projector import CONDITIONINGS, ConditionedProjector, ProjectorConfig
from cassle_zoo.records import StartingWeights
from cassle_zoo.specs import DATASETS
from cassle_zoo.train.config import DataConfig, TrainConfig
from cassle_zoo.train.methods import METHODS, ConditioningConfig
from cassle_zoo.train.methods.byol import BYOLConfig
from cassle_zoo.train.run.fingerprint import write_settings
from cassle_zoo.train.trainer import build_method

SMALL = {"depth": 2, "hidden_features": 16, "out_features": 8}


def config(**changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "name": "mine",
        "arch": "test_resnet",
        "method": METHODS["simclr"](**SMALL),
        "augment": AugmentConfig(size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        "data": DataConfig(root="secret/emoji64.tar", dataset="emoji64"),
    }
    return TrainConfig(**{**settings, **changes})


def save_run(folder: Path, settings: TrainConfig) -> nn.Module:
    """Write what a run of 7 steps leaves behind before it is finished."""
    folder.mkdir()
    method = build_method(settings)
    rest = {"optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}}
    state = {"method": method.state_dict(), **rest, "step": 7, "rng": torch.get_rng_state()}
    save_checkpoint(folder, {**state, "cuda_rng": None})
    write_settings(settings, {"count": DATASETS["emoji64"].images, "names": None}, folder)
    return method


def same(module: nn.Module, state: dict[str, Tensor]) -> bool:
    return module.state_dict().keys() == state.keys() and all(
        torch.equal(value, state[key]) for key, value in module.state_dict().items()
    )


def test_the_checkpoint_of_an_unfinished_run(tmp_path: Path) -> None:
    method: Any = save_run(tmp_path / "run", config())
    folder = tmp_path / "out"
    found = convert_checkpoint(tmp_path / "run/checkpoint.pt", folder, name="mine.emoji64")
    assert (found.format, found.notes) == ("a run of cassle-zoo", ())
    assert found.in_words().startswith("test_resnet, simclr, projector conditioned by cat on blur")
    assert found.dropped == ("optimizer, step, rng, cuda_rng",)
    assert same(method.backbone, load_file(folder / "model.safetensors"))
    assert same(method.projector, load_file(folder / "projector.safetensors"))
    info = cassle_zoo.model_info(f"local-dir:{folder}")
    assert (info.input_size, info.mean, info.std) == ((3, 32, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (info.method, info.data, info.conditioned) == ("simclr", "emoji64", True)
    text = (folder / "config.json").read_text()
    assert '"steps": 7' in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("count", "data", "says", "wrong"),
    [
        (DATASETS["emoji64"].images, None, "emoji64", ""),
        (200, None, "images in the form of emoji64, but not the published ones (200 images)", ""),
        (200, "emoji64", "emoji64", "there were 200 images and not 8,718"),
    ],
)
def test_the_data_of_a_converted_run_is_verified(
    tmp_path: Path, count: int, data: str | None, says: str, wrong: str
) -> None:
    save_run(tmp_path / "run", config())
    write_settings(config(), {"count": count, "names": None}, tmp_path / "run")
    folder = tmp_path / "out"
    options = ConvertOptions(data=data)
    convert_checkpoint(tmp_path / "run/checkpoint.pt", folder, name="mine", options=options)
    assert cassle_zoo.model_info(f"local-dir:{folder}").data == says
    failed = [check.detail for check in verify_folder(folder) if not check.passed]
    assert len(failed) == bool(wrong), failed
    assert wrong in "".join(failed)


def test_what_the_user_says_of_the_images_comes_before_the_settings(tmp_path: Path) -> None:
    save_run(tmp_path / "run", config())
    said: dict[str, Any] = {"mean": (0.7, 0.8, 0.9), "std": (0.3, 0.2, 0.1)}
    options = ConvertOptions(size=48, **said)
    convert_checkpoint(
        tmp_path / "run/checkpoint.pt", tmp_path / "out", name="mine", options=options
    )
    info = cassle_zoo.model_info(f"local-dir:{tmp_path}/out")
    assert info.input_size == (3, 48, 48)
    assert {"mean": info.mean, "std": info.std} == said


def test_the_users_folders_are_not_published(tmp_path: Path) -> None:
    save_run(tmp_path / "run", config())
    settings = json.loads((tmp_path / "run/config.json").read_text())
    settings["init"] = "/secret/weights.pth"
    (tmp_path / "run/config.json").write_text(json.dumps(settings))
    training = identify(tmp_path / "run/checkpoint.pt").training["config"]["config.json"]
    assert (training["init"], training["data"]["root"]) == ("weights.pth", "emoji64.tar")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_methods_checkpoint(tmp_path: Path, name: str) -> None:
    """EMA teachers and predictors have names like those of backbone and projector."""
    settings = config(method=METHODS[name](**SMALL))
    method: Any = save_run(tmp_path / "run", settings)
    found = identify(tmp_path / "run/checkpoint.pt")
    assert found.method == name
    assert same(method.backbone, found.backbone.state)
    assert found.projector is not None
    assert found.projector.config == method.projector.config
    assert same(method.projector, found.projector.state_dict())


@pytest.mark.parametrize(
    "mode", [mode for mode in CONDITIONINGS if mode not in ("raw_add", "raw_mul")]
)
@pytest.mark.parametrize("method", ["simclr", "simsiam"])
def test_every_conditioning(tmp_path: Path, mode: str, method: str) -> None:
    """Also of a shape that no method of the paper has, and with ambiguous descriptors."""
    conditioning = ConditioningConfig(
        mode=mode, descriptors=() if mode == "none" else ("crop",), depth=2, width=4
    )
    trained: Any = save_run(
        tmp_path / "run", config(method=METHODS[method](**SMALL), conditioning=conditioning)
    )
    found = identify(tmp_path / "run/checkpoint.pt").projector
    assert found is not None
    assert same(trained.projector, found.state_dict())
    assert (found.config.conditioning, found.config.descriptors) == (mode, conditioning.descriptors)
    assert found.config.last_bn == trained.projector.config.last_bn


def test_a_vit_of_another_size_in_a_run(tmp_path: Path) -> None:
    settings = config(arch="test_vit", augment=AugmentConfig(size=32))
    method: Any = save_run(tmp_path / "run", settings)
    found = identify(tmp_path / "run/checkpoint.pt")
    assert found.backbone.model_args == {"img_size": 32}
    assert same(method.backbone, found.backbone.state)


def test_a_run_without_its_settings(tmp_path: Path) -> None:
    method: Any = save_run(tmp_path / "run", config(method=BYOLConfig(**SMALL)))
    path = shutil.move(tmp_path / "run/checkpoint.pt", tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="--arch"):
        identify(path)
    found = identify(path, CheckpointFacts(arch="test_resnet"), name="mine")
    assert (found.method, found.size) == ("unknown", None)
    assert found.notes[0].startswith("the 13 numbers of omega are the paper's")
    assert same(method.backbone, found.backbone.state)
    teacher = identify(path, CheckpointFacts(arch="test_resnet", prefix="teacher.backbone"))
    assert same(method.teacher.backbone, teacher.backbone.state)


def test_contradictions_with_the_run_are_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", config())
    path = tmp_path / "run/checkpoint.pt"
    with pytest.raises(CheckpointError, match=r"--method says method 'byol'.*simclr"):
        identify(path, CheckpointFacts(method="byol"))
    with pytest.raises(CheckpointError, match=r"--conditioning says .* 'add'.*those of cat"):
        identify(path, CheckpointFacts(conditioning="add"))
    (tmp_path / "run/config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json must hold the run's settings"):
        identify(path)


def test_a_name_that_says_other_data_than_the_run_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", config(data=DataConfig(root="photos")))
    with pytest.raises(CheckpointError, match=r"'emoji64' says .* archive; give another name"):
        identify(tmp_path / "run/checkpoint.pt", name="mine.emoji64")


def test_the_data_of_a_run_by_its_name_in_the_zoo(tmp_path: Path) -> None:
    save_run(tmp_path / "run", config(data=DataConfig(root="photos", dataset="torch/stl10")))
    assert identify(tmp_path / "run/checkpoint.pt").data == "stl10"


def test_the_starting_weights_of_a_run_and_their_licence(tmp_path: Path) -> None:
    save_run(tmp_path / "run", config())
    start = StartingWeights(
        name="w.pth",
        sha256="0" * 64,
        license="cc-by-nc-4.0",
        origin="elsewhere",
        interpolation="bilinear",
    )
    write_settings(config(), {"count": 1, "names": None}, tmp_path / "run", start)
    convert_checkpoint(tmp_path / "run/checkpoint.pt", tmp_path / "out", name="mine")
    found = json.loads((tmp_path / "out/config.json").read_text())
    assert found["cassle_zoo"]["training"]["init"] == dataclasses.asdict(start)
    assert found["pretrained_cfg"]["interpolation"] == "bilinear"
    card = (tmp_path / "out/README.md").read_text()
    assert "Starting weights: w.pth, licence cc-by-nc-4.0" in card


@pytest.mark.parametrize("cut", [-1, 70, 30])
def test_a_damaged_checkpoint_of_a_run(tmp_path: Path, cut: int) -> None:
    save_run(tmp_path / "run", config())
    path = tmp_path / "run/checkpoint.pt"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is (damaged|not read)"):
        identify(path)


def features(folder: Path, images: Tensor) -> Tensor:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        found: Tensor = model(images)
    return found


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_dino(tmp_path: Path, network: str) -> None:
    """Facebook's main_dino.py saves two networks, each a dictionary of its own."""
    models = {"student": resnet18(), "teacher": resnet18()}
    head = nn.Sequential(nn.Linear(512, 8), nn.GELU(), nn.Linear(8, 4))
    checkpoint = {
        "student": {
            **prefixed("module.backbone.", models["student"]),
            **prefixed("module.head.mlp.", head),
        },
        "teacher": {**prefixed("backbone.", models["teacher"]), **prefixed("head.mlp.", head)},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []},
        "epoch": 100,
        "dino_loss": {"center": torch.zeros(1, 4)},
    }
    path = tmp_path / "checkpoint0100.pth"
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=r"'student\.module\.backbone\.', 'teacher\.backbone"):
        identify(path)
    found = convert_checkpoint(
        path, tmp_path / "out", name="mine", options=ConvertOptions(prefix=network)
    )
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = models[network](images)
    torch.testing.assert_close(features(tmp_path / "out", images), expected, rtol=0, atol=1e-5)
    assert (found.format, found.method) == ("DINO (Facebook)", "dino")
    other = "teacher" if network == "student" else "student"
    assert any(part.startswith(other) and "tensors" in part for part in found.dropped)
    assert "dino_loss (1 tensor)" in found.dropped
    assert found.dropped[-1] == "optimizer, epoch"


def test_nested_dictionaries_of_any_name(tmp_path: Path) -> None:
    model = resnet18()
    torch.save({"net": {"online": {"encoder": model.state_dict()}}, "step": 3}, tmp_path / "c.pth")
    found = identify(tmp_path / "c.pth")
    assert same(model, found.backbone.state)
    assert found.dropped == ("step",)


def lightning(**heads: nn.Module) -> dict[str, Any]:
    state = prefixed("backbone.", resnet18())
    for name, head in heads.items():
        state |= prefixed(f"{name}.", head)
    return {"epoch": 1, "pytorch-lightning_version": "2.1.0", "state_dict": state}


@pytest.mark.parametrize("settings", [{"image_size": 96}, {"lr": 1, "input_size": [96, 96]}])
def test_lightnings_own_projector_and_image_size(tmp_path: Path, settings: dict[str, Any]) -> None:
    projector = randomise(ConditionedProjector(ProjectorConfig(in_features=512)))
    checkpoint = lightning(projection_head=projector)
    torch.save({**checkpoint, "hyper_parameters": settings}, tmp_path / "c.ckpt")
    found = convert_checkpoint(tmp_path / "c.ckpt", tmp_path / "out", name="mine")
    loaded = cassle_zoo.create_projector(f"local-dir:{tmp_path}/out", pretrained=True)
    assert same(projector, loaded.state_dict())
    assert cassle_zoo.model_info(f"local-dir:{tmp_path}/out").input_size == (3, 96, 96)
    assert found.dropped == ("epoch, pytorch-lightning_version, hyper_parameters",)
    assert not any("px" in note for note in found.notes)


def test_an_unknown_image_size_is_said(tmp_path: Path) -> None:
    torch.save(lightning(), tmp_path / "c.ckpt")
    found = convert_checkpoint(tmp_path / "c.ckpt", tmp_path / "out", name="mine")
    assert "images have 224 px (else give --size)" in found.notes[-1]


def test_lightlys_plain_head(tmp_path: Path) -> None:
    """A SimCLRProjectionHead is a plain projector; a BYOLPredictionHead does not fit."""

    class Head(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            hidden = [nn.Linear(width, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU()]
            self.layers = nn.Sequential(*hidden, nn.Linear(16, 8))

    head = randomise(Head(512))
    checkpoint = lightning(
        projection_head=head,
        projection_head_momentum=Head(512),
        prediction_head=Head(8),
    )
    torch.save(checkpoint, tmp_path / "c.ckpt")
    found = convert_checkpoint(tmp_path / "c.ckpt", tmp_path / "out", name="mine")
    assert found.projector is not None
    assert found.projector.config.conditioning == "none"
    assert same(head, found.projector.state_dict())
    assert "projection_head is a plain projector" in found.notes[0]
    assert "prediction_head (8 tensors)" in found.dropped
    assert "2306.06082" not in (tmp_path / "out/config.json").read_text()


def test_projectors_that_are_equally_likely_are_left_out(tmp_path: Path) -> None:
    projectors = [ConditionedProjector(ProjectorConfig(in_features=512)) for _ in range(2)]
    torch.save(lightning(one=projectors[0], two=projectors[1]), tmp_path / "c.ckpt")
    found = identify(tmp_path / "c.ckpt")
    assert found.projector is None
    assert found.notes == ("no projector, since one and two are equally likely",)


def test_the_omega_of_a_projector_is_asked_for(tmp_path: Path) -> None:
    config = ProjectorConfig(in_features=512, descriptors=("crop",))
    torch.save(lightning(head=ConditionedProjector(config)), tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match="--descriptors"):
        identify(tmp_path / "c.ckpt")
    found = identify(tmp_path / "c.ckpt", CheckpointFacts(descriptors=("crop",)))
    assert found.projector is not None
    assert found.projector.config == config


def test_a_projector_on_features_wider_than_the_last_feature_map(tmp_path: Path) -> None:
    backbone = timm.create_model("mobilenetv3_small_050", num_classes=0)
    projector = ConditionedProjector(ProjectorConfig(in_features=1024, encoder_depth=2))
    method = {
        f"{part}.{key}": value
        for part, module in (("backbone", backbone), ("projector", projector))
        for key, value in module.state_dict().items()
    }
    facts = CheckpointFacts(arch="mobilenetv3_small_050", prefix="backbone")
    torch.save({"state_dict": method}, tmp_path / "weights.pt")
    found = identify(tmp_path / "weights.pt", facts=facts)
    assert found.projector is not None
    assert found.projector.config.in_features == 1024


def test_a_loop_that_names_its_parts_as_the_papers_code_does(tmp_path: Path) -> None:
    """The paper's ViT-S has twice as many heads, which its weights do not show."""
    backbone = timm.create_model("vit_small_patch16_224", num_classes=0, depth=1)
    projector = ConditionedProjector(ProjectorConfig(in_features=384, encoder_depth=2))
    parts = {"backbone": backbone.state_dict(), "projector": projector.state_dict()}
    torch.save({**parts, "epoch": 3}, tmp_path / "c.pth")
    found = identify(tmp_path / "c.pth")
    assert (found.format, found.backbone.model_args) == ("a dictionary of weights", {"depth": 1})
    assert found.notes[0].startswith("6 attention heads")
    assert found.projector is not None
    assert same(projector, found.projector.state_dict())
    assert found.dropped == ("epoch",)


def test_a_projector_beside_the_container_of_the_backbone(tmp_path: Path) -> None:
    projector = randomise(ConditionedProjector(ProjectorConfig(in_features=512)))
    parts = {"model": resnet18().state_dict(), "head": projector.state_dict()}
    ema = {"ema": prefixed("head.", ConditionedProjector(ProjectorConfig(in_features=512)))}
    torch.save({**parts, **ema, "epoch": 3}, tmp_path / "c.pth")
    found = identify(tmp_path / "c.pth")
    assert found.projector is not None
    assert same(projector, found.projector.state_dict())
    assert found.dropped == (f"ema ({len(projector.state_dict())} tensors)", "epoch")


def test_a_loop_with_another_projector(tmp_path: Path) -> None:
    backbone = timm.create_model("resnet18", num_classes=0)
    head = nn.Sequential(nn.Linear(512, 8), nn.GELU(), nn.Linear(8, 4))
    torch.save(
        {"backbone": backbone.state_dict(), "projector": head.state_dict()}, tmp_path / "c.pth"
    )
    found = identify(tmp_path / "c.pth")
    assert same(backbone, found.backbone.state)
    assert (found.projector, found.dropped) == (None, ("projector (4 tensors)",))
