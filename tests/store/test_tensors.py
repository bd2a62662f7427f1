import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_model_folder import SPEC, tiny_contents
from torch import Tensor

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.store.folder import CONFIG_FILE, MODEL_FILE, PROJECTOR_FILE, read_config
from cassle_zoo.store.tensors import read_tensors, save_model_folder, tensor_names
from cassle_zoo.zoo.create import create_projector


@pytest.fixture
def contents() -> dict[str, Any]:
    return tiny_contents()


def assert_equal_states(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def test_round_trip(tmp_path: Path, contents: dict[str, Any]) -> None:
    folder = save_model_folder(tmp_path / "a" / "b", **contents, card="# card")
    assert_equal_states(read_tensors(folder / MODEL_FILE), contents["backbone_state"])
    loaded = create_projector(f"local-dir:{folder}", pretrained=True)
    assert_equal_states(loaded.state_dict(), contents["projector"].state_dict())
    assert loaded.config == contents["projector"].config
    assert read_config(folder) == contents["config"]
    assert tensor_names(folder / MODEL_FILE) == set(contents["backbone_state"])
    assert {path.name for path in folder.iterdir()} == {
        MODEL_FILE,
        PROJECTOR_FILE,
        CONFIG_FILE,
        "README.md",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


def test_config_is_timms_with_ours_beside_it(contents: dict[str, Any]) -> None:
    config = contents["config"]
    assert config["architecture"] == "resnet18"
    assert config["pretrained_cfg"]["first_conv"] == "conv1"
    assert config["pretrained_cfg"]["classifier"] == "fc"
    own = config["cassle_zoo"]
    assert own["name"] == SPEC.full_name
    assert own["descriptors"] == [
        {"name": "blur", "width": 1},
        {"name": "color", "width": 4},
        {"name": "color_diff", "width": 3},
        {"name": "crop", "width": 4},
        {"name": "grayscale", "width": 1},
    ]
    assert json.loads(json.dumps(config)) == config


def test_floats_are_stored_as_asked_and_integers_as_they_are(
    tmp_path: Path, contents: dict[str, Any]
) -> None:
    folder = save_model_folder(tmp_path / "m", **contents, dtype=torch.float16)
    stored = load_file(folder / MODEL_FILE)
    assert stored["conv1.weight"].dtype == torch.float16
    assert stored["bn1.num_batches_tracked"].dtype == torch.int64
    projector = create_projector(f"local-dir:{folder}", pretrained=True)
    assert all(p.dtype == torch.float32 for p in projector.parameters())
    torch.testing.assert_close(
        dict(projector.named_parameters())["layers.0.weight"],
        dict(contents["projector"].named_parameters())["layers.0.weight"],
        rtol=1e-3,
        atol=1e-6,
    )


def test_the_same_weights_give_the_same_bytes(tmp_path: Path, contents: dict[str, Any]) -> None:
    one, two = (save_model_folder(tmp_path / name, **contents) for name in "ab")
    for file in (MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE):
        assert sha256(one / file) == sha256(two / file)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (70000.0, torch.float16, r"'conv1.weight' reaches 70000.*float32"),
        (float("nan"), torch.float32, "NaN"),
        (float("-inf"), None, "infinity"),
    ],
)
def test_weights_that_cannot_be_stored_are_refused(
    tmp_path: Path, contents: dict[str, Any], value: float, dtype: torch.dtype | None, message: str
) -> None:
    contents["backbone_state"]["conv1.weight"][0, 0, 0, 0] = value
    with pytest.raises(ModelFolderError, match=message):
        save_model_folder(tmp_path / "m", **contents, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_half_precision_number_is_stored(
    tmp_path: Path, contents: dict[str, Any]
) -> None:
    contents["backbone_state"]["conv1.weight"][0, 0, 0, 0] = 65504.0
    folder = save_model_folder(tmp_path / "m", **contents, dtype=torch.float16)
    assert read_tensors(folder / MODEL_FILE)["conv1.weight"].max() == 65504.0


def test_tied_weights_are_stored(tmp_path: Path, contents: dict[str, Any]) -> None:
    state = contents["backbone_state"]
    state["tied"] = state["conv1.weight"]
    folder = save_model_folder(tmp_path / "m", **contents)
    assert torch.equal(read_tensors(folder / MODEL_FILE)["tied"], state["conv1.weight"])


def test_a_folder_with_content_is_kept(tmp_path: Path, contents: dict[str, Any]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelFolderError, match="not empty"):
        save_model_folder(tmp_path, **contents)
    with pytest.raises(ModelFolderError, match=r"holds notes\.txt"):
        save_model_folder(tmp_path, **contents, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ModelFolderError, match="is a file"):
        save_model_folder(tmp_path / "notes.txt", **contents)


def test_what_finder_leaves_is_no_content(tmp_path: Path, contents: dict[str, Any]) -> None:
    (tmp_path / ".DS_Store").write_text("of macOS")
    save_model_folder(tmp_path, **contents)
    (tmp_path / ".DS_Store").write_text("of macOS")
    save_model_folder(tmp_path, **contents, overwrite=True)


def test_overwrite_replaces_a_model_folder_whole(tmp_path: Path, contents: dict[str, Any]) -> None:
    folder = save_model_folder(tmp_path / "m", **contents, card="old")
    contents["backbone_state"]["conv1.bias"].fill_(7)
    save_model_folder(folder, **{**contents, "projector": None}, overwrite=True)
    assert read_tensors(folder / MODEL_FILE)["conv1.bias"].unique().tolist() == [7]
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, MODEL_FILE]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_failed_write_leaves_the_old_folder(
    tmp_path: Path, contents: dict[str, Any], monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    folder = save_model_folder(tmp_path / "m", **contents)
    before = sha256(folder / MODEL_FILE)
    replace, calls = os.replace, 0

    def failing(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError("disk on fire")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    contents["backbone_state"]["conv1.bias"].fill_(7)
    with pytest.raises(OSError, match="disk on fire"):
        save_model_folder(folder, **contents, overwrite=True)
    assert sha256(folder / MODEL_FILE) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_invalid_config_is_not_written(tmp_path: Path, contents: dict[str, Any]) -> None:
    contents["config"]["num_classes"] = 10
    with pytest.raises(ModelFolderError, match="num_classes must be 0, not 10"):
        save_model_folder(tmp_path / "m", **contents)
    assert list(tmp_path.iterdir()) == []
