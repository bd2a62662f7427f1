"""A Hub on this machine with a tiny model."""

import dataclasses
import logging
import os
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
from faulty_proxy import FaultyProxy, faulty_proxy
from huggingface_hub import constants
from olah_server import make_repository, olah
from toy import save_toy
from upload_server import TOKEN, UploadServer, upload_server

import cassle_zoo
from cassle_zoo.common.files import sha256
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store import folder as model_folder
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.zoo.registry import make_config

TINY = "resnet18_cassle_simclr.emoji64"
TINY_CHANGES: dict[str, Any] = {"timm_arch": "test_resnet", "num_features": 96}


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder of 1.5 MB that tests must not change."""
    return save_toy(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture
def folder(toy_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of `toy_folder` that a test may change."""
    return Path(shutil.copytree(toy_folder, tmp_path / "folder"))


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadServer]:
    """Return a Hub that takes uploads, at which the client is pointed, with a token."""
    with upload_server(tmp_path / "mirrors") as server:
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def reported(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[BaseException], str]:
    """Return a function that returns all that a user sees of an error, and all that was logged."""
    caplog.set_level(logging.INFO)

    def report(error: BaseException) -> str:
        output = capsys.readouterr()
        lines = traceback.format_exception(error, limit=None)
        return "".join([*lines, repr(error), output.out, output.err, caplog.text])

    return report


@pytest.fixture(scope="session")
def olah_endpoint_and_mirrors(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Path]]:
    """A running olah, and the folder of its repositories."""
    folder = tmp_path_factory.mktemp("olah")
    with olah(folder) as endpoint:
        yield endpoint, folder / "mirrors"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of 1.5 MB, with projector, under the name of a released model."""
    spec = dataclasses.replace(MODEL_SPECS[TINY], **TINY_CHANGES)
    backbone = timm.create_model(spec.timm_arch, num_classes=0)
    config = ProjectorConfig(
        in_features=spec.num_features, hidden_features=8, depth=2, out_features=4
    )
    return save_model_folder(
        tmp_path_factory.mktemp("tiny") / "model",
        config=make_config(spec, backbone, projector=config, training={"recipe": TINY}),
        backbone_state=backbone.state_dict(),
        projector=ConditionedProjector(config),
        card="# tiny\n",
    )


class LoopbackHub:
    """The real client pointed at olah, through a proxy that can fail; an empty cache."""

    def __init__(self, proxy: FaultyProxy, mirrors: Path, cache: Path, monkeypatch: Any) -> None:
        self.proxy = proxy
        self.mirrors = mirrors
        self.cache = cache
        self._monkeypatch = monkeypatch
        endpoint = proxy.endpoint
        # The client reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported, into these.
        # Tests in processes of their own set the variables themselves.
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def environment(self) -> dict[str, str]:
        """Return the environment of a new process that uses the same server and cache."""
        return {
            **os.environ,
            "PYTHONPATH": str(Path(cassle_zoo.__file__).parents[1]),
            "HF_ENDPOINT": self.proxy.endpoint,
            "HF_HUB_CACHE": str(self.cache),
        }

    def go_offline(self) -> None:
        """Set HF_HUB_OFFLINE."""
        self._monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def pin(self, repo: str, commit: str, folder: Path) -> None:
        """Make the registry's TINY a model that is on the Hub only."""
        hashes = {path.name: sha256(path) for path in folder.iterdir()}
        spec = dataclasses.replace(
            MODEL_SPECS[TINY], **TINY_CHANGES, sha256=hashes, hub_repo=repo, hub_revision=commit
        )
        self._monkeypatch.setitem(MODEL_SPECS, TINY, spec)
        self._monkeypatch.setattr(model_folder, "WEIGHTS_ROOT", self.cache / "nothing is bundled")

    def cached(self, file: str) -> list[Path]:
        """Return the files of that name in the cache."""
        return sorted(self.cache.glob(f"models--*/snapshots/*/{file}"))


@pytest.fixture
def hub(
    olah_endpoint_and_mirrors: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoopbackHub]:
    endpoint, mirrors = olah_endpoint_and_mirrors
    with faulty_proxy(endpoint) as proxy:
        yield LoopbackHub(proxy, mirrors, tmp_path / "hub", monkeypatch)


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    """Return the name of a repository that no other test uses."""
    name = f"{request.node.module.__name__.rpartition('.')[2]}-{request.node.name}".lower()
    return "org/" + re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:80]


@pytest.fixture
def pinned(hub: LoopbackHub, repo: str, tiny_folder: Path) -> str:
    """Publish the tiny model, pin it in the registry, and return its commit."""
    commit = make_repository(hub.mirrors, repo, tiny_folder, tag="v1")
    hub.pin(repo, commit, tiny_folder)
    return commit
