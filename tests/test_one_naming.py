"""A name means the same model wherever a model can be named."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from builders import image_folder
from safetensors.torch import save_file
from timm.models import save_for_hf

import cassle_zoo
from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import CassleZooError, UnknownNameError
from cassle_zoo.common.files import sha256
from cassle_zoo.eval.sources import open_source
from cassle_zoo.features.files import load_features
from cassle_zoo.specs import resolve_spec
from cassle_zoo.store.folder import bundled_folder
from cassle_zoo.store.tensors import state_sha256
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.init import find

ARCH = "test_resnet"
OURS = "resnet18_cassle_simclr"
NAMES = [OURS, f"{OURS}.emoji64", "local-dir:{ours}", ARCH, f"timm:{ARCH}", "local-dir:{timm}"]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A model folder of the zoo and one of timm; `timm.create_model(ARCH)` has its weights."""
    torch.manual_seed(1)
    model: Any = timm.create_model(ARCH, num_classes=0)
    save_for_hf(model, str(tmp_path / "of_timm"), safe_serialization=True)
    weights = tmp_path / "of_timm" / "model.safetensors"
    assert weights.is_file()
    create = timm.create_model

    def cached(name: str, pretrained: bool = False, **settings: Any) -> Any:
        built: Any = create(name, False if name == ARCH else pretrained, **settings)
        if name == ARCH and pretrained:
            built.load_state_dict(model.state_dict())
        return built

    monkeypatch.setattr(timm, "create_model", cached)
    monkeypatch.setattr("cassle_zoo.zoo.timm_names.is_unreachable", lambda: False)
    # What `--init` downloads.
    monkeypatch.setattr("cassle_zoo.train.sources._download_weights", lambda *_: weights)
    return {"ours": bundled_folder(resolve_spec(OURS)), "timm": tmp_path / "of_timm"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_same_model_everywhere(
    name: str, places: dict[str, Any], tmp_path: Path
) -> None:
    name = name.format(**places)
    expected = places["ours" if "cassle" in name else "timm"] / "model.safetensors"
    created = cassle_zoo.create_model(name, pretrained=True).eval()

    opened: Any = open_source(name).model
    assert state_sha256(opened.eval()) == state_sha256(created)

    source = find(TrainConfig(name="x_simclr.y", arch=created_arch(created), init=name))
    assert source is not None
    for key, value in source.state.items():
        # The bundled weights are stored in float16.
        own = value.to(created.state_dict()[key].dtype)
        torch.testing.assert_close(created.state_dict()[key], own, rtol=0, atol=0)
    assert source.record.sha256 == sha256(expected)

    images = image_folder(tmp_path / "images", ["a.png", "b.png", "c.png"])
    assert main(["features", name, str(images), "-o", str(tmp_path / "f.npz")]) == 0
    assert main(["demo", str(images), "--model", name, "-o", str(tmp_path / "demo")]) == 0
    features = cassle_zoo.extract_features(created, str(images)).features
    for file in (tmp_path / "f.npz", tmp_path / "demo" / "features.safetensors"):
        torch.testing.assert_close(load_features(file).features, features, rtol=0, atol=0)


def created_arch(model: Any) -> str:
    return str(model.pretrained_cfg["architecture"]).replace(OURS, "resnet18")


def test_unknown_names_are_unknown_everywhere(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", ["a.png"])
    for name in ("timm:resnet5", "resnet18_casle_simclr", "timm:resnet18.nope"):
        for call in (
            lambda n=name: cassle_zoo.create_model(n),
            lambda n=name: open_source(n),
            lambda n=name: cassle_zoo.extract_features(n, str(images)),
            lambda n=name: find(TrainConfig(name="x_simclr.y", arch="resnet18", init=n)),
        ):
            with pytest.raises(UnknownNameError):
                call()


def test_a_folder_of_timm_that_is_damaged(places: dict[str, Any]) -> None:
    save_file({"other": torch.zeros(1)}, places["timm"] / "model.safetensors")
    for call in (
        lambda: cassle_zoo.create_model(f"local-dir:{places['timm']}", pretrained=True),
        lambda: open_source(f"local-dir:{places['timm']}"),
    ):
        with pytest.raises(CassleZooError, match="of_timm"):
            call()
