"""Projectors through huggingface_hub's mixin."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load, load_file, save_file

import cassle_zoo
from cassle_zoo.common.errors import ConfigError, ModelFolderError
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.zoo.registry import make_config


@pytest.fixture
def projector() -> ConditionedProjector:
    config = ProjectorConfig(
        in_features=6, depth=3, last_bn=True, last_bn_affine=False, descriptors=("flip", "crop")
    )
    built = ConditionedProjector(config)
    built(torch.randn(8, 6), torch.rand(8, 5))  # running statistics as after training
    return built


def test_round_trip(projector: ConditionedProjector, tmp_path: Path) -> None:
    projector.save_pretrained(tmp_path / "p")
    loaded = ConditionedProjector.from_pretrained(tmp_path / "p")
    assert loaded.config == projector.config
    features, omega = torch.randn(3, 6), torch.rand(3, 5)
    assert torch.equal(loaded.eval()(features, omega), projector.eval()(features, omega))
    assert load_file(tmp_path / "p" / "model.safetensors").keys() == projector.state_dict().keys()
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    assert ProjectorConfig.from_dict(config) == projector.config
    card = ModelCard.load(tmp_path / "p" / "README.md")
    assert card.data.library_name == "cassle-zoo"
    assert card.data.license is None  # the user's to choose
    again = ConditionedProjector.from_pretrained(tmp_path / "p", config=projector.config)
    assert again.config == projector.config


def test_a_dictionary_of_settings(tmp_path: Path) -> None:
    """What json.load gives of config.json, or a user writes by hand."""
    settings = {"in_features": 6, "descriptors": ["flip", "crop"]}
    built = ConditionedProjector(settings)
    assert built.config == ProjectorConfig(in_features=6, descriptors=("crop", "flip"))
    built.save_pretrained(tmp_path / "p")
    assert json.loads((tmp_path / "p/config.json").read_text()) == built.config.to_dict()
    loaded = ConditionedProjector.from_pretrained(tmp_path / "p")
    assert loaded.config == built.config
    again = ConditionedProjector.from_pretrained(tmp_path / "p", config=built.config.to_dict())
    assert again.config == built.config
    with pytest.raises(ConfigError, match="dropout"):
        ConditionedProjector({**settings, "dropout": 0.1})
    with pytest.raises(ConfigError, match="lacks 'in_features'"):
        ConditionedProjector(config={})


def test_the_mixin_changes_nothing_else(projector: ConditionedProjector) -> None:
    assert {key.partition(".")[0] for key in projector.state_dict()} == {"encoder", "layers"}
    copied = copy.deepcopy(projector)
    assert copied.config == projector.config
    assert all(
        torch.equal(value, projector.state_dict()[key])
        for key, value in copied.state_dict().items()
    )


def test_push_to_hub(
    projector: ConditionedProjector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pushed: dict[str, Any] = {}

    class Created:
        repo_id = "me/projector"

    def upload(self: HfApi, *, repo_id: str, folder_path: Path, **kwargs: Any) -> str:
        pushed[repo_id] = {path.name for path in Path(folder_path).iterdir()}
        return "url"

    monkeypatch.setattr(HfApi, "create_repo", lambda *args, **kwargs: Created)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert projector.push_to_hub("me/projector") == "url"
    assert pushed == {"me/projector": {"model.safetensors", "config.json", "README.md"}}


def test_damaged_folders_are_refused(projector: ConditionedProjector, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    projector.save_pretrained(folder)
    state = load((folder / "model.safetensors").read_bytes())
    del state["layers.0.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"layers\.0\.weight"):
        ConditionedProjector.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelFolderError, match=r"model\.safetensors of .* is damaged"):
        ConditionedProjector.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="holds no projector"):
        ConditionedProjector.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout": 0.1}))
    with pytest.raises(ConfigError, match="dropout"):
        ConditionedProjector.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelFolderError, match=r"config\.json of .* is damaged"):
        ConditionedProjector.from_pretrained(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelFolderError, match=r"config\.json of .* is not a JSON object"):
        ConditionedProjector.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"no config\.json"):
        ConditionedProjector.from_pretrained(folder)


def test_a_model_folder_is_pointed_to_create_projector(tmp_path: Path) -> None:
    name = "resnet18_cassle_simclr.emoji64"
    projector = cassle_zoo.create_projector(name)
    backbone: Any = torch.nn.Linear(1, 1)
    backbone.num_features = 512
    config = make_config(MODEL_SPECS[name], backbone, projector=projector.config, training={})
    folder = save_model_folder(
        tmp_path / "m", config=config, backbone_state=backbone.state_dict(), projector=projector
    )
    with pytest.raises(ModelFolderError, match=r"use cassle_zoo\.create_projector"):
        ConditionedProjector.from_pretrained(folder)
    loaded = cassle_zoo.create_projector(f"local-dir:{folder}", pretrained=True)
    loaded.save_pretrained(tmp_path / "p")
    again = ConditionedProjector.from_pretrained(tmp_path / "p")
    assert again.state_dict().keys() == projector.state_dict().keys()
