"""Checkpoints of the paper's code become model folders that give the same numbers."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from foreign_checkpoints import randomise
from safetensors.torch import load_file
from torch import Tensor, nn

import cassle_zoo
from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import CheckpointError, ConfigError, ModelFolderError
from cassle_zoo.hub.convert import ConvertOptions, convert_checkpoint
from cassle_zoo.hub.publish.verify import verify_folder
from cassle_zoo.zoo.vit import mocov3_vit

NAME = "resnet18_cassle_simclr.stl10"
PAPER = ["blur", "color", "color_diff", "crop", "grayscale"]


def mlp(widths: list[int], *, last_bn: bool, affine: bool = True) -> nn.Sequential:
    """Linear without bias + BatchNorm + ReLU, as the paper's code builds them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths[:-1]):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_bn))
    if last_bn:
        layers.append(nn.BatchNorm1d(widths[-1], affine=affine))
    return nn.Sequential(*layers)


class PaperProjector(nn.Module):
    """Encodes omega, appends it to the features, and projects."""

    def __init__(self, widths: list[int], **kwargs: Any) -> None:
        super().__init__()
        self.aug_processor = mlp([13, 16, 16, 16], last_bn=True)
        self.projector = mlp([widths[0] + 16, *widths[1:]], **kwargs)

    def forward(self, features: Tensor, omega: Tensor) -> Tensor:
        projected: Tensor = self.projector(torch.cat([features, self.aug_processor(omega)], dim=1))
        return projected


def save(path: Path, backbone: nn.Module, projector: nn.Module) -> Path:
    """Save as the paper's code does after some steps, with the optimiser's state."""
    optimizer = torch.optim.SGD([*backbone.parameters(), *projector.parameters()], 0.03, 0.9)
    for group in optimizer.param_groups:
        for parameter in group["params"][:3]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    checkpoint = {
        "backbone": backbone.state_dict(),
        "projector": projector.state_dict(),
        "ss_predictor": {},
        "optimizers": [optimizer.state_dict()],
        "schedulers": [scheduler.state_dict()],
        "trainer": {"epoch_length": 12, "iteration": 12, "max_epochs": 1},
    }
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, PaperProjector]:
    """A checkpoint of resnet18 with SimCLR, and the networks that are in it."""
    torch.manual_seed(0)
    backbone = torchvision.models.resnet18(zero_init_residual=True)
    backbone.fc = nn.Identity()
    projector = PaperProjector([512, 512, 128], last_bn=False)
    for module in (backbone, projector):
        for name, value in module.state_dict().items():
            if value.ndim == 1 and value.is_floating_point():
                value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_()
    path = tmp_path_factory.mktemp("official") / "ckpt-1.pth"
    return save(path, backbone.eval(), projector.eval()), backbone, projector


WITHOUT_CASSLE_ZOO = """
import sys
sys.modules["cassle_zoo"] = None
import timm, torch
images = torch.load(sys.argv[1], weights_only=True)
model = timm.create_model(f"local-dir:{sys.argv[2]}", pretrained=True).eval()
assert tuple(timm.data.resolve_model_data_config(model)["input_size"])[1:] == images.shape[2:]
with torch.no_grad():
    torch.save(model(images), sys.argv[3])
"""


def timm_features(folder: Path, images: Tensor, tmp_path: Path) -> Tensor:
    """Features of a model folder in a process that has no cassle_zoo."""
    torch.save(images, tmp_path / "images.pt")
    paths = [str(tmp_path / "images.pt"), str(folder), str(tmp_path / "features.pt")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", WITHOUT_CASSLE_ZOO, *paths]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    features: Tensor = torch.load(tmp_path / "features.pt", weights_only=True)
    return features


def test_resnet18_simclr(resnet: tuple[Path, nn.Module, PaperProjector], tmp_path: Path) -> None:
    path, backbone, projector = resnet
    folder = tmp_path / "out"
    convert_checkpoint(path, folder, name=NAME)
    images, omega = torch.randn(3, 3, 96, 96), torch.rand(3, 13)
    with torch.no_grad():
        features = backbone(images)
        found = timm_features(folder, images, tmp_path)
        torch.testing.assert_close(found, features, rtol=0, atol=1e-5)
        ours = cassle_zoo.create_projector(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(
            ours(features, omega), projector(features, omega), rtol=0, atol=1e-6
        )
        moved = (ours(features, omega) - ours(features, omega.flip(1))).abs().max()
    assert moved > 1e-3


def test_vit_small_mocov3(tmp_path: Path) -> None:
    """A small projector of MoCo-v3's form, and one block in place of twelve, keep it quick."""
    backbone = randomise(mocov3_vit(embed_dim=384, depth=1, num_heads=12, num_classes=0))
    projector = randomise(PaperProjector([384, 64, 64, 24], last_bn=True, affine=False))
    path = save(tmp_path / "ckpt.pth", backbone, projector)
    folder = tmp_path / "out"
    convert_checkpoint(path, folder, name="vit_small_cassle_mocov3.in100")
    images, omega = torch.randn(2, 3, 224, 224), torch.rand(2, 13)
    with torch.no_grad():
        features = backbone(images)
        loaded = timm_features(folder, images, tmp_path)
        torch.testing.assert_close(loaded, features, rtol=0, atol=1e-5)
        ours = cassle_zoo.create_projector(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(
            ours(features, omega), projector(features, omega), rtol=0, atol=1e-5
        )
        six = timm.create_model("vit_small_patch16_224", num_classes=0, depth=1).eval()
        six.load_state_dict(backbone.state_dict())
        assert not torch.allclose(six(images), features, atol=1e-3)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_args"] == {"depth": 1, "num_heads": 12}
    assert config["architecture"] == "vit_small_patch16_224"


def test_the_folder_is_like_that_of_hub_export(
    resnet: tuple[Path, nn.Module, PaperProjector], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    convert_checkpoint(resnet[0], folder, name=NAME)
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "projector.safetensors", "config.json", "reference.safetensors",
        "README.md",
    }  # fmt: skip
    assert all(check.passed for check in verify_folder(folder))
    info = cassle_zoo.model_info(f"local-dir:{folder}")
    assert (info.full_name, info.method, info.data) == (NAME, "simclr", "stl10")
    assert info.input_size == (3, 96, 96)
    assert (info.mean, info.std) == ((0.43, 0.42, 0.39), (0.27, 0.26, 0.27))
    training = json.loads((folder / "config.json").read_text())["cassle_zoo"]["training"]
    assert training["iterations"] == 12
    assert training["source_file"] == "ckpt-1.pth"
    assert len(training["source_sha256"]) == 64
    assert training["left_out"] == "optimizers, schedulers, trainer"
    card = (folder / "README.md").read_text()
    assert "the paper's code (gmum/CASSLE); converted by cassle_zoo" in card
    assert f"cassle-zoo hub convert ckpt-1.pth --name {NAME} -o DIR" in card
    assert "license: unknown" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("file", ["args.json", "ckpt-1.args.json"])
def test_args_json_beside_the_file(
    resnet: tuple[Path, nn.Module, PaperProjector], tmp_path: Path, file: str
) -> None:
    path = tmp_path / "ckpt-1.pth"
    path.symlink_to(resnet[0])
    args = {
        "framework": "moco", "dataset": "stl10", "logdir": "runs/secret", "max_epochs": 200,
        "aug_treatment": "mlp", "aug_inj_type": "proj-cat", "aug_nn_depth": 3,
        "aug_cond": ["flip", "crop", "color", "color_diff", "blur"],
    }  # fmt: skip
    (tmp_path / file).write_text(json.dumps(args))
    folder = tmp_path / "out"
    convert_checkpoint(path, folder, name="mine")
    own = json.loads((folder / "config.json").read_text())["cassle_zoo"]
    assert own["method"] == "mocov2"
    assert own["projector"]["descriptors"] == ["blur", "color", "color_diff", "crop", "flip"]
    assert own["training"]["data"] == "stl10"
    assert own["training"]["config"]["args.json"]["max_epochs"] == 200
    assert "assumed" not in own["training"]
    assert "secret" not in json.dumps(own)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_an_args_json_that_is_none_is_refused(
    resnet: tuple[Path, nn.Module, PaperProjector], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "ckpt-1.pth"
    path.symlink_to(resnet[0])
    (tmp_path / "args.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"args\.json"):
        convert_checkpoint(path, tmp_path / "out", name=NAME)


def test_types_names_and_existing_folders(
    resnet: tuple[Path, nn.Module, PaperProjector], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert_checkpoint(resnet[0], out, name=NAME, dtype=torch.float16)
    assert load_file(out / "projector.safetensors")["layers.0.weight"].dtype == torch.float16
    with pytest.raises(ModelFolderError, match="not empty"):
        convert_checkpoint(resnet[0], out, name=NAME)
    convert_checkpoint(resnet[0], out, name=NAME, overwrite=True)
    stored = load_file(out / "projector.safetensors")["layers.0.weight"]
    assert torch.equal(stored, resnet[2].state_dict()["projector.0.weight"])
    with pytest.raises(ConfigError, match="int8"):
        convert_checkpoint(resnet[0], tmp_path / "b", name=NAME, dtype=torch.int8)
    with pytest.raises(ConfigError, match="letters, digits"):
        convert_checkpoint(resnet[0], tmp_path / "b", name="a/b")


def test_the_command_says_what_became_of_the_file(
    resnet: tuple[Path, nn.Module, PaperProjector],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["hub", "convert", str(resnet[0]), "-o", str(tmp_path / "out")]
    assert main([*command, "--name", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "read:    the paper's code (gmum/CASSLE)",
        f"model:   resnet18, simclr or mocov2, projector conditioned by cat on {', '.join(PAPER)}",
    ]
    assert [line.split(",")[0] for line in lines[2:-1]] == [
        "assumed: the 13 numbers of omega are the paper's blur",
        "assumed: simclr or mocov2",
        "assumed: images are normalised as for ImageNet (else give --data or --mean",
        "dropped: optimizers", "dropped: schedulers", "dropped: trainer",
    ]  # fmt: skip
    assert lines[-1] == str(tmp_path / "out")
    options = ["--method", "simclr", "--data", "stl10", "--descriptors", *PAPER, "--overwrite"]
    assert main([*command, "--name", "mine", *options, "--dtype", "float16"]) == 0
    assert "assumed" not in capsys.readouterr().out
    repeated = f"--name mine -o DIR --dtype float16 --method simclr --descriptors {' '.join(PAPER)}"
    assert f"ckpt-1.pth {repeated} --data stl10\n" in (tmp_path / "out/README.md").read_text()
    assert main([*command, "--name", "resnet18_byol", "--overwrite"]) == 2
    assert "ckpt-1.pth: the name resnet18_byol says method 'byol'" in capsys.readouterr().err


def test_a_projection_that_diverged_is_refused(
    resnet: tuple[Path, nn.Module, PaperProjector], tmp_path: Path
) -> None:
    checkpoint = torch.load(resnet[0], weights_only=True)
    checkpoint["projector"]["projector.3.bias"][0] = float("nan")
    torch.save(checkpoint, tmp_path / "c.pth")
    options = ConvertOptions(method="simclr")
    with pytest.raises(ModelFolderError, match=r"layers\.3\.bias' holds NaN"):
        convert_checkpoint(tmp_path / "c.pth", tmp_path / "out", name="mine", options=options)
    assert not (tmp_path / "out").exists()


def test_a_name_that_says_other_data_than_the_settings_is_refused(
    resnet: tuple[Path, nn.Module, PaperProjector], tmp_path: Path
) -> None:
    """`hub verify` would say nothing of images that are prepared wrongly."""
    path = tmp_path / "ckpt-1.pth"
    path.symlink_to(resnet[0])
    (tmp_path / "args.json").write_text('{"dataset": "stl10"}')
    with pytest.raises(ConfigError, match=r"'mine\.in100' says in100, but the settings .* stl10"):
        convert_checkpoint(path, tmp_path / "out", name="mine.in100")
    assert not (tmp_path / "out").exists()
