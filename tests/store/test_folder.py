"""Model folders that are damaged, or written by somebody who means harm."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model_folder import tiny_contents

from cassle_zoo.common.devices import peak_bytes
from cassle_zoo.common.errors import ChecksumError, ConfigError, ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.publish.pull import pull
from cassle_zoo.store.folder import (
    CONFIG_FILE,
    MODEL_FILE,
    read_config,
    verify_files,
)
from cassle_zoo.store.tensors import read_tensors, save_model_folder, tensor_names
from cassle_zoo.zoo.create import create_projector

CPU = torch.device("cpu")


@pytest.fixture
def contents() -> dict[str, Any]:
    return tiny_contents()


def change(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            change("architecture", to="../resnet18"),
            "architecture must be a timm model.*'../resnet18'",
        ),
        (change("architecture", to=3), "architecture must be .*not 3"),
        (change("num_features", to=0), "must be a positive whole number"),
        (change("num_features", to=True), "must be a positive whole number"),
        (change("global_pool", to=7), "global_pool must be a text, not 7"),
        (change("pretrained_cfg", "file", to="/etc/passwd"), "points outside the folder with file"),
        (change("pretrained_cfg", "url", to="https://x"), "points outside the folder with url"),
        (change("pretrained_cfg", "mean", to=[0.5]), "mean must be three numbers"),
        (
            change("pretrained_cfg", "mean", to=[0.5, 0.5, float("nan")]),
            "mean must be three numbers",
        ),
        (change("pretrained_cfg", "mean", to=[10**400, 0, 0]), "mean must be three numbers"),
        (change("pretrained_cfg", "std", to=["a", 1, 1]), "std must be three numbers of at"),
        (change("pretrained_cfg", "std", to=[0.5, 0, 0.5]), "std must be three numbers of at"),
        (change("pretrained_cfg", "std", to=[1e-300, 1, 1]), "std must be three numbers of at"),
        (change("model_args", to={"features_only": True}), "model_args must not set features_only"),
        (
            change("model_args", to={"layers": [1, 10**7]}),
            r"layers to \[1, 10000000\]; .* 1000",
        ),
        (change("pretrained_cfg", "input_size", to=[3, -1, 64]), "three positive whole numbers"),
        (change("pretrained_cfg", "input_size", to=[3, 64.5, 64]), "three positive whole numbers"),
        (change("pretrained_cfg", "input_size", to=[3, 16384, 64]), "up to 2048"),
        (change("pretrained_cfg", "crop_pct", to=0), r"crop_pct must be within \(0, 1\], not 0"),
        (change("pretrained_cfg", "crop_pct", to="all"), "crop_pct must be .*not 'all'"),
        (change("pretrained_cfg", "interpolation", to="magic"), "one of nearest, bil.*not 'magic'"),
        (change("pretrained_cfg", "crop_mode", to=[]), "crop_mode must be one of center"),
        (change("pretrained_cfg", "classifier", to=5), "classifier must be names of layers, not 5"),
        (change("cassle_zoo", to=None), "cassle_zoo must be an object"),
        (change("cassle_zoo", "descriptors", to=[{"name": "hue", "width": 1}]), "'hue'"),
        (change("cassle_zoo", "descriptors", to=["blur"]), "descriptors must be a list of"),
        (change("cassle_zoo", "descriptors", to=[]), "contradict"),
        (change("cassle_zoo", "projector", "descriptors", to=["crop", "blur"]), "contradict"),
        (
            lambda config: config["cassle_zoo"].pop("projector"),
            "projector must be .*null if the model has none",
        ),
        (change("cassle_zoo", "training", to="long"), "training must be an object"),
        (change("cassle_zoo", "training", "init", to="x"), "training must be .*config, .* init"),
        (change("cassle_zoo", "training", "config", to={"data": 5}), "training must be .*data"),
        (change("model_args", to={"num_classes": 10}), "model_args must not set num_classes"),
    ],
)
def test_a_wrong_config_is_refused_by_file_and_reason(
    tmp_path: Path,
    contents: dict[str, Any],
    damage: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    folder = save_model_folder(tmp_path / "m", **contents)
    damage(contents["config"])
    (folder / CONFIG_FILE).write_text(json.dumps(contents["config"]))
    with pytest.raises(ModelFolderError, match=message) as caught:
        read_config(folder)
    assert str(folder / CONFIG_FILE) in str(caught.value)
    assert "cassle-zoo hub export" in str(caught.value)


@pytest.mark.parametrize(("version", "fix"), [(1, "`cassle-zoo upgrade {}`"), (3, "update")])
def test_another_format_is_refused_with_the_one_fix_that_helps(
    tmp_path: Path, contents: dict[str, Any], version: int, fix: str
) -> None:
    folder = save_model_folder(tmp_path / "m", **contents)
    contents["config"]["cassle_zoo"]["format_version"] = version
    (folder / CONFIG_FILE).write_text(json.dumps(contents["config"]))
    with pytest.raises(ModelFolderError, match=f"format_version is {version}") as caught:
        read_config(folder)
    assert fix.format(folder) in str(caught.value)
    assert str(folder / CONFIG_FILE) in str(caught.value)
    assert "hub export" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(ModelFolderError, match=CONFIG_FILE):
        read_config(tmp_path)


def test_binary_config_and_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFolderError, match="is not a JSON object"):
        read_config(tmp_path)
    with pytest.raises(ModelFolderError, match=r"nowhere does not exist.*Check the path\.$"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(ModelFolderError, match=r"config\.json is not a folder"):
        read_config(tmp_path / CONFIG_FILE)
    (tmp_path / CONFIG_FILE).unlink()
    with pytest.raises(ModelFolderError, match=r"is not a model folder.* write such folders\.$"):
        read_config(tmp_path)


def test_the_projector_must_fit_its_config(tmp_path: Path, contents: dict[str, Any]) -> None:
    folder = save_model_folder(tmp_path / "m", **contents)
    config = contents["config"]
    config["cassle_zoo"]["projector"]["out_features"] = 8
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=r"projector\.safetensors does not fit"):
        create_projector(f"local-dir:{folder}", pretrained=True)
    config["cassle_zoo"]["projector"]["colour"] = 8
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=r"config\.json: unknown projector fields"):
        create_projector(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("out_features", 10**9, r"layers\.3\.bias is \(4,\), expected \(1000000000,\)"),
        ("in_features", 10**9, r"layers\.0\.weight"),
        ("encoder_width", 10**9, r"encoder\.0\.weight"),
        ("out_features", 10**18, "cannot be built"),
        ("depth", 10**9, "depth must be a whole number within"),
        ("encoder_depth", 10**9, "encoder_depth must be a whole number within"),
    ],
)
@pytest.mark.parametrize("conditioning", ["cat", "hypernet_bn"])
def test_a_giant_projector_costs_no_memory(
    tmp_path: Path,
    contents: dict[str, Any],
    conditioning: str,
    field: str,
    value: int,
    message: str,
) -> None:
    folder = save_model_folder(tmp_path / "m", **contents)
    projector = contents["config"]["cassle_zoo"]["projector"]
    projector |= {"conditioning": conditioning, field: value}
    (folder / CONFIG_FILE).write_text(json.dumps(contents["config"]))
    if conditioning == "hypernet_bn" and "must be" not in message:
        message = "does not fit|cannot be built"
    peak = peak_bytes(CPU)
    with pytest.raises(ModelFolderError, match=message):
        create_projector(f"local-dir:{folder}", pretrained=True)
    assert peak_bytes(CPU) - peak < 2**28


def test_a_folder_without_projector_says_so(tmp_path: Path, contents: dict[str, Any]) -> None:
    contents["config"]["cassle_zoo"] |= {"projector": None, "descriptors": []}
    folder = save_model_folder(tmp_path / "m", **{**contents, "projector": None})
    with pytest.raises(ModelFolderError, match="only a backbone"):
        create_projector(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize("size", [0, 5, 200])
def test_a_truncated_file_is_refused_by_name(
    tmp_path: Path, contents: dict[str, Any], size: int
) -> None:
    folder = save_model_folder(tmp_path / "m", **contents)
    (folder / MODEL_FILE).write_bytes((folder / MODEL_FILE).read_bytes()[:size])
    for load in (read_tensors, tensor_names):
        with pytest.raises(ModelFolderError, match=f"{MODEL_FILE} is damaged"):
            load(folder / MODEL_FILE)
    (folder / MODEL_FILE).unlink()
    with pytest.raises(ModelFolderError, match=f"{MODEL_FILE} is missing"):
        read_tensors(folder / MODEL_FILE)


def test_verify_files(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(path) == right
    verify_files(tmp_path, {"a.bin": right})
    verify_files(tmp_path, {"a.bin": right.upper()})
    with pytest.raises(ChecksumError, match=rf"a\.bin .*{right}, expected {'0' * 64}"):
        verify_files(tmp_path, {"a.bin": "0" * 64})
    with pytest.raises(ModelFolderError, match=r"b\.bin is missing"):
        verify_files(tmp_path, {"b.bin": right})


@pytest.mark.parametrize("name", ["../a.bin", "/etc/passwd", "..", "sub/a.bin"])
def test_hashes_of_files_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFolderError, match="not a plain file name"):
        verify_files(tmp_path, {name: "0" * 64})


def test_an_empty_path_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="output is an empty path"):
        pull("resnet18_cassle_simclr", "")
    with pytest.raises(ConfigError, match="folder is an empty path"):
        save_model_folder("", config={}, backbone_state={}, projector=None, overwrite=True)


def test_as_many_means_as_channels(contents: dict[str, Any], tmp_path: Path) -> None:
    config, path = contents["config"], tmp_path / CONFIG_FILE
    config["pretrained_cfg"] |= {"input_size": [4, 64, 64], "mean": [0.5] * 4, "std": [0.5] * 4}
    path.write_text(json.dumps(config), "utf-8")
    assert read_config(tmp_path)["pretrained_cfg"]["mean"] == [0.5] * 4
    config["pretrained_cfg"]["std"] = [0.5] * 3
    path.write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelFolderError, match="std must be 4 numbers of at least"):
        read_config(tmp_path)
