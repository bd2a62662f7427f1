"""Models from the Hub that are incomplete, damaged or cut off on their way."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
from huggingface_hub import constants
from olah_server import lfs_object, make_repository
from packaging.version import Version
from toy import flip_a_bit, has_weights_of

import cassle_zoo
from cassle_zoo.common.errors import ChecksumError, ModelFolderError, WeightsUnavailableError
from cassle_zoo.store import resolve
from cassle_zoo.store.folder import CONFIG_FILE, MODEL_FILE, PROJECTOR_FILE

NAME = "resnet18_cassle_simclr.emoji64"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def test_missing_file(hub: Any, repo: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "incomplete")
    (folder / PROJECTOR_FILE).unlink()
    commit = make_repository(hub.mirrors, repo, folder)
    hub.pin(repo, commit, tiny_folder)
    for name in (NAME, f"hf-hub:{repo}"):
        cassle_zoo.create_model(name, pretrained=True)
        with pytest.raises(
            ModelFolderError, match=r"no projector\.safetensors.*It holds: README\.md"
        ):
            cassle_zoo.create_projector(name, pretrained=True)
    hub.pin(repo, commit, folder)
    with pytest.raises(ModelFolderError, match=r"published without projector\.safetensors"):
        cassle_zoo.create_projector(NAME, pretrained=True)


def test_a_repository_with_a_pickle_only(hub: Any, repo: str, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "pytorch_model.bin").write_bytes(b"pickle")
    commit = make_repository(hub.mirrors, repo, tmp_path / "foreign")
    with pytest.raises(
        ModelFolderError, match=r"pytorch_model\.bin is not loaded: .* can run code"
    ):
        cassle_zoo.create_model(f"hf-hub:{repo}@{commit}", pretrained=True)
    assert not any("pytorch_model.bin" in request for request in hub.proxy.requests)


def test_a_model_of_other_makers(hub: Any, repo: str, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / CONFIG_FILE).write_text('{"architecture": "resnet18"}')
    make_repository(hub.mirrors, repo, tmp_path / "foreign")
    with pytest.raises(ModelFolderError, match=r"cassle_zoo is missing.*timm\.create_model\.$"):
        cassle_zoo.create_model(f"hf-hub:{repo}", pretrained=True)


def test_all_files_of_an_incomplete_repository(
    hub: Any, repo: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "incomplete")
    (folder / PROJECTOR_FILE).unlink()
    make_repository(hub.mirrors, repo, folder)
    for name in (f"hf-hub:{repo}", f"local-dir:{folder}"):
        with pytest.raises(ModelFolderError, match=r"projector\.safetensors"):
            resolve(name)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate])
def test_damage_in_the_cache(
    hub: Any, repo: str, pinned: str, tiny_folder: Path, damage: Any
) -> None:
    names = (NAME, f"hf-hub:{repo}")
    cassle_zoo.create_model(NAME, pretrained=True)
    damage(hub.cached(MODEL_FILE)[0].resolve())
    for name in names:
        with pytest.raises(ChecksumError) as caught:
            cassle_zoo.create_model(name, pretrained=True)
        assert str(hub.cached(MODEL_FILE)[0]) in str(caught.value)
        assert f"`cassle-zoo hub pull {name} --force`" in str(caught.value)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            with pytest.raises(ChecksumError, match=f"Unset HF_HUB_OFFLINE.*pull {name} --force"):
                cassle_zoo.create_model(name, pretrained=True)
    for name in names:
        damage(hub.cached(MODEL_FILE)[0].resolve())
        resolve(name, force=True)
        assert has_weights_of(cassle_zoo.create_model(name, pretrained=True), tiny_folder)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate])
def test_damage_on_the_server(
    hub: Any, repo: str, pinned: str, tiny_folder: Path, damage: Any
) -> None:
    damage(lfs_object(hub.mirrors, repo, tiny_folder / MODEL_FILE))
    for load in (cassle_zoo.create_model, timm.create_model):
        with pytest.raises(ChecksumError, match=r"model\.safetensors is not the published file"):
            load(NAME, pretrained=True)


def test_damage_in_a_configuration(hub: Any, repo: str, pinned: str) -> None:
    cassle_zoo.create_model(NAME, pretrained=True)
    path = hub.cached(CONFIG_FILE)[0].resolve()
    path.write_text(path.read_text().replace("test_resnet", "test_vit"))
    with pytest.raises(ChecksumError, match=r"config\.json is not the published file"):
        cassle_zoo.create_model(NAME, pretrained=True)


def test_damage_in_a_configuration_without_a_published_hash(
    hub: Any, repo: str, pinned: str
) -> None:
    name = f"hf-hub:{repo}"
    cassle_zoo.create_model(name)
    hub.cached(CONFIG_FILE)[0].resolve().write_text("{")
    with pytest.raises(ModelFolderError, match=f"in the cache.*hub pull {name} --force") as caught:
        cassle_zoo.create_model(name)
    assert "hub export" not in str(caught.value)
    resolve(name, force=True)
    cassle_zoo.create_model(name)


def test_the_connection_drops_once(hub: Any, pinned: str, tiny_folder: Path) -> None:
    hub.proxy.drops = 1
    if Version(huggingface_hub.__version__) < Version("1.20"):  # which does not resume by itself
        with pytest.raises(WeightsUnavailableError, match="try again"):
            cassle_zoo.create_model(NAME, pretrained=True)
    assert has_weights_of(cassle_zoo.create_model(NAME, pretrained=True), tiny_folder)
    assert hub.proxy.drops == 0


@pytest.mark.parametrize("name", [NAME, "hf-hub:{repo}"])
def test_the_connection_drops_for_good(
    hub: Any, repo: str, pinned: str, tiny_folder: Path, name: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.proxy.drops, hub.proxy.refuses = 1, True
    name = name.format(repo=repo)
    with pytest.raises(WeightsUnavailableError, match=r"could not be downloaded.*try again"):
        cassle_zoo.create_model(name, pretrained=True)
    assert not hub.cached(MODEL_FILE)
    hub.proxy.refuses = False
    assert has_weights_of(cassle_zoo.create_model(name, pretrained=True), tiny_folder)
