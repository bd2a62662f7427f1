"""`cassle-zoo train --init` with weights on the Hub: the real client, a server on this machine."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from olah_server import make_repository
from timm.models import save_for_hf

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.errors import CassleZooError, ModelFolderError, WeightsUnavailableError
from cassle_zoo.common.files import sha256
from cassle_zoo.store import resolve
from cassle_zoo.store.folder import MODEL_FILE, PROJECTOR_FILE
from cassle_zoo.train import init
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.trainer import build_method

NAME = "resnet18_cassle_simclr.emoji64"


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(arch="test_resnet", augment=AugmentConfig(size=32))


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with classifier as timm uploads it."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("timm") / "model"
    save_for_hf(timm.create_model("test_resnet"), str(folder), safe_serialization=True)
    return folder


def same_backbone(config: TrainConfig, folder: Path) -> bool:
    mine = build_method(config).backbone.state_dict()
    theirs = build_method(dataclasses.replace(config, init=f"local-dir:{folder}"))
    return all(torch.equal(v, mine[k]) for k, v in theirs.backbone.state_dict().items())


def test_a_repository_of_timm(hub: Any, repo: str, timm_folder: Path, config: TrainConfig) -> None:
    commit = make_repository(hub.mirrors, repo, timm_folder)
    config = dataclasses.replace(config, init=f"hf-hub:{repo}")
    source = init.find(config)
    assert source is not None
    assert source.record.sha256 == sha256(timm_folder / "model.safetensors")
    assert source.record.origin == f"hf-hub:{repo}@{commit}"
    assert same_backbone(config, timm_folder)
    hub.go_offline()
    assert init.find(config) is not None


def test_an_older_repository_of_timm(
    hub: Any, repo: str, config: TrainConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    save_for_hf(timm.create_model("test_resnet"), str(folder), safe_serialization=False)
    commit = make_repository(hub.mirrors, repo, folder)
    # olah answers a missing file of a branch unlike the Hub; of a commit, like it.
    assert same_backbone(dataclasses.replace(config, init=f"hf-hub:{repo}@{commit}"), folder)


def test_a_name_of_timm(hub: Any, timm_folder: Path, config: TrainConfig) -> None:
    name = "test_resnet.r160_in1k"
    make_repository(hub.mirrors, f"timm/{name}", timm_folder)
    config = dataclasses.replace(config, init=name)
    source = init.find(config)
    assert source is not None
    record = source.record
    assert (record.name, record.license) == (name, "apache-2.0")
    assert record.origin == f"hf-hub:timm/{name}"
    assert same_backbone(config, timm_folder)
    assert same_backbone(dataclasses.replace(config, init="test_resnet"), timm_folder)
    own = init.with_own_preprocessing(config, (), lambda _: None).augment
    assert (own.size, own.mean) == (160, (0.5, 0.5, 0.5))


def test_a_model_of_ours(
    hub: Any, repo: str, pinned: str, tiny_folder: Path, config: TrainConfig
) -> None:
    for what in (NAME, f"hf-hub:{repo}@v1"):
        start = dataclasses.replace(config, init=what, init_projector="no")
        source = init.find(start)
        assert source is not None
        assert source.record.origin == f"hf-hub:{repo}@{pinned}"
        assert source.projector is not None
        assert same_backbone(start, tiny_folder)


def test_offline_only_what_is_read_must_be_cached(
    hub: Any, repo: str, tiny_folder: Path, config: TrainConfig
) -> None:
    make_repository(hub.mirrors, repo, tiny_folder)
    what = f"hf-hub:{repo}"
    resolve(what, [MODEL_FILE, PROJECTOR_FILE])
    hub.go_offline()
    source = init.find(dataclasses.replace(config, init=what, init_projector="no"))
    assert source is not None
    assert source.projector is not None


@pytest.mark.parametrize("what", ["hf-hub:org/absent", "hf-hub:incomplete", "test_vit"])
def test_what_the_hub_does_not_have(hub: Any, config: TrainConfig, what: str) -> None:
    with pytest.raises(CassleZooError) as error:
        init.find(dataclasses.replace(config, init=what))
    assert isinstance(error.value, WeightsUnavailableError | ModelFolderError)
