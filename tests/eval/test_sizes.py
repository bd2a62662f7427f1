"""Baselines are measured at the input size of the models beside them."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import timm
from builders import image_folder
from PIL import Image

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.main import run_from_cli
from cassle_zoo.eval.sources import common_size, open_source
from cassle_zoo.features.transform import eval_transform
from cassle_zoo.specs import resolve_spec
from cassle_zoo.store.folder import bundled_folder

OURS, RANDOM = "resnet18_cassle_simclr", "random-init:resnet18"


@pytest.fixture
def larger(tmp_path: Path) -> str:
    """A model folder like a bundled one, for images of 96 pixels."""
    folder = tmp_path / "larger"
    folder.mkdir()
    bundled = bundled_folder(resolve_spec(OURS))
    (folder / "model.safetensors").symlink_to(bundled / "model.safetensors")
    config = json.loads((bundled / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 96, 96]
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    ("models", "native", "size"),
    [
        ([RANDOM], None, 224),
        ([RANDOM], 64, 64),
        (["raw-pixels"], 64, None),
        ([RANDOM, "timm:test_resnet"], None, 160),
        (["timm:test_resnet", RANDOM, OURS], None, 64),
        (["raw-pixels", RANDOM, "larger", OURS], 64, 96),
    ],
)
def test_the_common_size(
    models: list[str], native: int | None, size: int | None, larger: str
) -> None:
    found = common_size([larger if m == "larger" else m for m in models], native=native)
    assert (None if found is None else found[0]) == size


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_networks_for_a_size(arch: str) -> None:
    source = open_source(f"random-init:{arch}", size=96)
    model: Any = source.model
    ready = eval_transform(model)(Image.new("RGB", (200, 150)))
    assert ready.shape == (3, 96, 96)
    assert model(ready[None]).shape[0] == 1
    assert open_source(f"random-init:{arch}", size=96).sha256 == source.sha256


def test_the_size_changes_no_weights_of_a_cnn() -> None:
    small, large = (open_source(OURS, size=size) for size in (None, 128))
    assert small.sha256 == large.sha256
    model: Any = large.model
    assert eval_transform(model)(Image.new("RGB", (9, 9))).shape == (3, 128, 128)


def test_a_size_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def fixed(name: str, **settings: Any) -> Any:
        if "img_size" in settings:
            raise AssertionError("this network is for 160 px only")
        return create(name, **{**settings, "pretrained": False})

    monkeypatch.setattr(timm, "create_model", fixed)
    monkeypatch.setattr("cassle_zoo.zoo.timm_names.is_unreachable", lambda: False)
    with pytest.raises(ConfigError, match=r"timm:test_vit .* 96 px: this network.*--size"):
        open_source("timm:test_vit", size=96)


def test_a_size_that_the_patches_do_not_fill() -> None:
    with pytest.raises(ConfigError, match=r"random-init:test_vit .* 50 px: .*patch.*--size"):
        open_source("random-init:test_vit", size=50)


def test_on_the_command_line(
    larger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for label in "ab":
        image_folder(tmp_path / "photos", [f"{label}/{i}.png" for i in range(10)], (60, 50))
    # Images of one seed are equal in both folders, so they must differ.
    for path in (tmp_path / "photos" / "b").iterdir():
        Image.open(path).rotate(180).save(path)
    monkeypatch.chdir(tmp_path)
    arguments = ["--dataset", "folder", "--data", "photos", "--no-cache", "--k", "1"]
    run_from_cli(["knn", RANDOM, larger, *arguments, "-o", "results"])
    assert f"{RANDOM} measured at 96 px, that of {larger}" in capsys.readouterr().err
    (path,) = Path("results").glob("*random*.json")
    result = json.loads(path.read_text())
    assert result["protocol"]["input"].startswith("3x96x96")
    assert result["command"] == (
        f"cassle-zoo eval knn {RANDOM} --data photos --dataset folder --size 96 --k 1"
    )
    # The command repeats the measurement, by itself and from the same folder.
    again = [*shlex.split(result["command"])[2:], "--no-cache", "-o", "again.json"]
    run_from_cli(again)
    repeated = json.loads(Path("again.json").read_text())
    for key in ("metrics", "protocol", "data", "model", "command"):
        assert repeated[key] == result[key]
    (path,) = Path("results").glob("*cassle*.json")
    assert "--size" not in json.loads(path.read_text())["command"]
    run_from_cli(["knn", larger, OURS, *arguments])
    said = capsys.readouterr().err
    assert f"at their own sizes: {larger} 96 px, {OURS} 64 px (--size for one)" in said
    run_from_cli(["knn", "raw-pixels", RANDOM, *arguments, "--size", "32", "-o", "sized"])
    commands = {
        p.name.split("--")[2]: json.loads(p.read_text())["command"]
        for p in Path("sized").glob("*.json")
    }
    assert "--size 32" in commands["random-init_resnet18.json"]
    assert "--size" not in commands["raw-pixels.json"]  # it would be refused
