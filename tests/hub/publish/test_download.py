"""Models from the Hub: the real client, a real server on this machine, and what goes wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from olah_server import make_repository
from safetensors.torch import load_file
from toy import flip_a_bit, has_weights_of

import cassle_zoo
from cassle_zoo.common.errors import (
    CassleZooError,
    ChecksumError,
    ModelFolderError,
    UnknownNameError,
    WeightsUnavailableError,
)
from cassle_zoo.common.hub_client import redacted
from cassle_zoo.features.whitening import Whitening, model_whitening
from cassle_zoo.hub.publish.pull import pull
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store import resolve
from cassle_zoo.store.folder import (
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    PROJECTOR_FILE,
    WHITENING_FILE,
)
from cassle_zoo.store.tensors import save_model_folder

NAME = "resnet18_cassle_simclr.emoji64"
TOKEN = "hf_secretSecretSecret"


def with_other_weights(folder: Path, new: Path) -> Path:
    config = json.loads((folder / CONFIG_FILE).read_text())
    state = {key: value + 1 for key, value in load_file(folder / MODEL_FILE).items()}
    return save_model_folder(new, config=config, backbone_state=state, projector=None)


def test_cold_then_warm_then_offline(hub: Any, pinned: str, tiny_folder: Path) -> None:
    model = cassle_zoo.create_model(NAME, pretrained=True)
    assert has_weights_of(model, tiny_folder)
    assert f"GET /{MODEL_SPECS[NAME].hub_repo}/resolve/{pinned}/{MODEL_FILE}" in hub.proxy.requests
    cassle_zoo.create_projector(NAME, pretrained=True)
    hub.proxy.requests.clear()
    assert has_weights_of(timm.create_model(NAME, pretrained=True), tiny_folder)
    assert hub.proxy.requests == []
    hub.go_offline()
    assert has_weights_of(cassle_zoo.create_model(NAME, pretrained=True), tiny_folder)
    cassle_zoo.create_projector(NAME, pretrained=True)


def test_bundled_files_come_first(hub: Any) -> None:
    resolve(NAME)
    assert hub.proxy.requests == []


@pytest.mark.parametrize("name", [NAME, "hf-hub:{repo}"])
def test_offline_without_cache(hub: Any, repo: str, pinned: str, name: str) -> None:
    hub.go_offline()
    with pytest.raises(WeightsUnavailableError, match=r"not downloaded .*HF_HUB_OFFLINE"):
        cassle_zoo.create_model(name.format(repo=repo), pretrained=True)
    assert hub.proxy.requests == []


def test_cache_dir(hub: Any, repo: str, pinned: str, tiny_folder: Path, tmp_path: Path) -> None:
    for name in (NAME, f"hf-hub:{repo}"):
        folder = tmp_path / name[:6]
        model = cassle_zoo.create_model(name, pretrained=True, cache_dir=folder)
        assert has_weights_of(model, tiny_folder)
        cassle_zoo.create_projector(name, pretrained=True, cache_dir=folder)
        assert cassle_zoo.model_info(name, cache_dir=folder).num_features == 96
        weights = sorted(folder.glob(f"models--*/snapshots/{pinned}/*.safetensors"))
        assert [path.name for path in weights] == [MODEL_FILE, PROJECTOR_FILE]
        flip_a_bit(weights[0].resolve())
        with pytest.raises(ChecksumError, match=f"`HF_HUB_CACHE={folder} cassle-zoo hub pull"):
            cassle_zoo.create_model(name, pretrained=True, cache_dir=folder)
    timm.create_model(NAME, pretrained=True, cache_dir=tmp_path / "timm")
    assert (tmp_path / "timm").is_dir()
    assert not hub.cache.exists()


def test_hub_names_in_every_function(hub: Any, repo: str, pinned: str, tiny_folder: Path) -> None:
    for name in (f"hf-hub:{repo}", f"hf-hub:{repo}@v1", f"hf-hub:{repo}@{pinned}"):
        assert has_weights_of(cassle_zoo.create_model(name, pretrained=True), tiny_folder)
        assert cassle_zoo.create_projector(name, pretrained=True).config.out_features == 4
        info = cassle_zoo.model_info(name)
        assert (info.full_name, info.hub_repo, info.hub_revision) == (NAME, repo, pinned)
    image = torch.zeros(3, 64, 64)
    features = cassle_zoo.extract_features(f"hf-hub:{repo}", image).features
    assert features.shape == (1, 96)
    assert torch.equal(features, cassle_zoo.extract_features(NAME, image).features)


def test_without_weights_only_the_configuration_is_downloaded(
    hub: Any, repo: str, pinned: str
) -> None:
    cassle_zoo.create_model(f"hf-hub:{repo}")
    cassle_zoo.create_projector(f"hf-hub:{repo}")
    cassle_zoo.model_info(f"hf-hub:{repo}")
    assert hub.cached(CONFIG_FILE)
    assert not hub.cached("*.safetensors")
    hub.proxy.requests.clear()
    cassle_zoo.create_model(NAME)
    assert hub.proxy.requests == []


def test_another_revision_of_a_registered_model(
    hub: Any, repo: str, pinned: str, tiny_folder: Path, tmp_path: Path
) -> None:
    newer = with_other_weights(tiny_folder, tmp_path / "newer")
    commit = make_repository(hub.mirrors, repo, newer)
    for revision in ("main", commit):
        model = cassle_zoo.create_model(f"{NAME}@{revision}", pretrained=True)
        assert has_weights_of(model, newer)
    for name in (NAME, f"{NAME}@{pinned}", f"{NAME}@v1"):
        assert has_weights_of(cassle_zoo.create_model(name, pretrained=True), tiny_folder)
    # A branch that moved: asked again, and the last known one without a network.
    hub.go_offline()
    model = cassle_zoo.create_model(f"{NAME}@main", pretrained=True)
    assert has_weights_of(model, newer)


def test_a_revision_that_holds_another_model(
    hub: Any, repo: str, pinned: str, tiny_folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    config = json.loads((other / CONFIG_FILE).read_text())
    config["cassle_zoo"]["name"] = "resnet18_simclr.mine"
    (other / CONFIG_FILE).write_text(json.dumps(config))
    make_repository(hub.mirrors, repo, other)
    with pytest.raises(ModelFolderError, match=r"holds 'resnet18_simclr\.mine' and not"):
        cassle_zoo.create_model(f"{NAME}@main", pretrained=True)


@pytest.mark.parametrize(
    "name",
    ["hf-hub:", "hf-hub:zoo", "hf-hub:zoo@main", "hf-hub:org/name@", f"{NAME}@", "hf-hub:@main"],
)
def test_incomplete_names(name: str) -> None:
    with pytest.raises(ModelFolderError, match=r"incomplete.*'hf-hub:ORG/NAME'"):
        cassle_zoo.create_model(name)


def test_wrong_names() -> None:
    with pytest.raises(UnknownNameError, match="not the name of a Hub repository"):
        cassle_zoo.create_model("hf-hub:a/b/c")
    for name in ("org/name", "org/name@v1"):
        with pytest.raises(UnknownNameError, match=f"'hf-hub:{name}' for .*'local-dir:{name}'"):
            cassle_zoo.create_model(name)
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet18_cassle_simclr'"):
        cassle_zoo.create_model("resnet18_cassel_simclr@main")
    with pytest.raises(WeightsUnavailableError, match=r"has no Hub repository.*leave out '@main'"):
        cassle_zoo.create_model(f"{NAME}@main")


@pytest.mark.parametrize("name", [NAME, "hf-hub:{repo}"])
def test_wrong_revision(hub: Any, repo: str, pinned: str, name: str) -> None:
    wrong = f"{name.format(repo=repo)}@nope"
    with pytest.raises(WeightsUnavailableError, match=r"with revision 'nope'"):
        cassle_zoo.create_model(wrong, pretrained=True)
    hub.proxy.answers = {"/nope/": (404, "RevisionNotFound")}  # as the Hub answers
    with pytest.raises(WeightsUnavailableError, match=r"no revision 'nope'\. Give one of main, v1"):
        cassle_zoo.create_model(wrong, pretrained=True)


def test_missing_repository(hub: Any) -> None:
    with pytest.raises(WeightsUnavailableError, match="no repository 'org/nothing'") as caught:
        cassle_zoo.create_model("hf-hub:org/nothing", pretrained=True)
    for part in (hub.proxy.endpoint, "private and no token is set", "hf auth login", "HF_TOKEN"):
        assert part in str(caught.value)


def test_a_gated_repository(hub: Any, pinned: str) -> None:
    hub.proxy.answers = {"/resolve/": (403, "GatedRepo")}
    with pytest.raises(WeightsUnavailableError, match=r"is gated: accept its terms.*HF_TOKEN"):
        cassle_zoo.create_model(NAME, pretrained=True)


def test_a_server_that_fails(hub: Any, pinned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.proxy.answers = {"/resolve/": (500, "")}
    with pytest.raises(WeightsUnavailableError, match=r"could not be downloaded.*500 "):
        cassle_zoo.create_model(NAME, pretrained=True)


def test_a_server_that_is_away(hub: Any, pinned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(WeightsUnavailableError, match=r"ConnectError.*HF_ENDPOINT"):
        cassle_zoo.create_model(NAME, pretrained=True)


@pytest.mark.parametrize("name", [NAME, "hf-hub:{repo}", "hf-hub:{repo}@v1"])
def test_all_files_are_downloaded(
    hub: Any, repo: str, pinned: str, tiny_folder: Path, name: str
) -> None:
    name = name.format(repo=repo)
    folder = resolve(name).folder
    assert folder.name == pinned
    files = {path.name: path.read_bytes() for path in tiny_folder.iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    hub.go_offline()
    assert resolve(name).folder == folder
    cassle_zoo.create_projector(name, pretrained=True)
    with pytest.raises(WeightsUnavailableError, match="HF_HUB_OFFLINE is set"):
        resolve(name, force=True)


def test_offline_a_whitening_is_not_said_to_be_missing(
    hub: Any, repo: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "whitened"))
    Whitening(mean=torch.zeros(96), projection=torch.eye(96)).save(folder / WHITENING_FILE)
    make_repository(hub.mirrors, repo, folder)
    resolve(f"hf-hub:{repo}", [MODEL_FILE])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsUnavailableError, match=r"^whitening\..*HF_HUB_OFFLINE"):
            model_whitening(f"hf-hub:{repo}")
    assert model_whitening(f"hf-hub:{repo}") is not None
    hub.go_offline()
    assert model_whitening(f"hf-hub:{repo}") is not None


def test_offline_a_model_is_not_pulled_in_part(
    hub: Any, repo: str, toy_folder: Path, tmp_path: Path
) -> None:
    """The client returns what is cached, here without the reference; it might be the whitening."""
    make_repository(hub.mirrors, repo, toy_folder)
    resolve(f"hf-hub:{repo}", [MODEL_FILE, PROJECTOR_FILE])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsUnavailableError, match=r"^README\.md .*HF_HUB_OFFLINE is set"):
            pull(repo, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    files = {path.name for path in pull(repo).iterdir()}
    hub.go_offline()
    assert {path.name for path in pull(repo, tmp_path / "pulled").iterdir()} == files


def test_a_repository_without_a_card(hub: Any, repo: str, toy_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_folder, tmp_path / "without"))
    (folder / CARD_FILE).unlink()
    make_repository(hub.mirrors, repo, folder)
    assert {path.name for path in pull(repo).iterdir()} == {p.name for p in folder.iterdir()}


def test_a_model_without_whitening_that_was_pulled(hub: Any, repo: str, toy_folder: Path) -> None:
    make_repository(hub.mirrors, repo, toy_folder)
    assert model_whitening(f"hf-hub:{repo}") is None
    resolve(f"hf-hub:{repo}")
    hub.go_offline()
    assert model_whitening(f"hf-hub:{repo}") is None


def test_that_a_model_has_no_whitening_is_remembered(hub: Any, repo: str, toy_folder: Path) -> None:
    make_repository(hub.mirrors, repo, toy_folder)
    commit = resolve(f"hf-hub:{repo}", []).folder
    absent = commit.parents[1] / ".no_exist" / commit.name / WHITENING_FILE
    absent.parent.mkdir(parents=True, exist_ok=True)
    absent.touch()  # as the client does when the Hub says so
    hub.go_offline()
    assert model_whitening(f"hf-hub:{repo}") is None


def test_two_models_share_a_cache(
    hub: Any, repo: str, pinned: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = with_other_weights(tiny_folder, tmp_path / "other")
    make_repository(hub.mirrors, f"{repo}-2", folder)
    names = {NAME: tiny_folder, f"hf-hub:{repo}-2": folder}
    for _ in range(2):
        for name, expected in names.items():
            assert has_weights_of(cassle_zoo.create_model(name, pretrained=True), expected)
    assert len(hub.cached(MODEL_FILE)) == 2


def test_a_private_repository(
    hub: Any,
    repo: str,
    pinned: str,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
) -> None:
    caplog.set_level("INFO")
    caplog.set_level("DEBUG", "huggingface_hub")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.proxy.token, hub.proxy.echo = TOKEN, True
    with pytest.raises(WeightsUnavailableError, match="private and no token is set"):
        cassle_zoo.create_model(NAME, pretrained=True)
    wrong = "hf_" + TOKEN[3:][::-1]
    monkeypatch.setenv("HF_TOKEN", wrong)
    for name in (NAME, f"hf-hub:{repo}"):
        with pytest.raises(CassleZooError, match="your token has no access") as caught:
            cassle_zoo.create_model(name, pretrained=True)
        assert caught.value.__suppress_context__
        assert wrong not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert has_weights_of(cassle_zoo.create_model(NAME, pretrained=True), tiny_folder)
    hub.proxy.refuses = True
    with pytest.raises(WeightsUnavailableError) as broken:
        cassle_zoo.create_projector(NAME, pretrained=True)
    for secret in (TOKEN, wrong):
        assert secret not in str(broken.value)
        assert secret not in caplog.text


def test_secrets_are_removed_from_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "no-usual-form")
    text = "http://me:password@mirror.org/x refused no-usual-form and hf_abcDEF123"
    assert redacted(text) == "http://***@mirror.org/x refused *** and ***"
