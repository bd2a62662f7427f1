"""`ConditionedProjector.from_pretrained` from the Hub: a real server, and what goes wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
from olah_server import make_repository

from cassle_zoo.common.errors import (
    ModelFolderError,
    UnknownNameError,
    WeightsUnavailableError,
)
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig

TOKEN = "hf_secretSecretSecret"


@pytest.fixture
def saved(hub: Any, repo: str, tmp_path: Path) -> ConditionedProjector:
    """A projector in the repository `repo`."""
    projector = ConditionedProjector(ProjectorConfig(in_features=6, encoder_depth=2))
    projector.save_pretrained(tmp_path / "p")
    make_repository(hub.mirrors, repo, tmp_path / "p", tag="v1")
    return projector


@pytest.mark.parametrize("kwargs", [{}, {"revision": "v1"}])
def test_a_projector_from_the_hub(
    saved: ConditionedProjector, repo: str, kwargs: dict[str, Any]
) -> None:
    loaded = ConditionedProjector.from_pretrained(repo, **kwargs)
    assert loaded.config == saved.config
    assert all(torch.equal(v, saved.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_a_missing_repository(hub: Any) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"no repository 'org/nothing'.*no token"):
        ConditionedProjector.from_pretrained("org/nothing")


def test_a_missing_revision(saved: ConditionedProjector, repo: str) -> None:
    with pytest.raises(WeightsUnavailableError, match="v2"):
        ConditionedProjector.from_pretrained(repo, revision="v2")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_gated_repository(hub: Any, saved: ConditionedProjector, repo: str, file: str) -> None:
    hub.proxy.answers = {f"/{file}": (403, "GatedRepo")}
    with pytest.raises(WeightsUnavailableError, match="is gated: accept its terms"):
        ConditionedProjector.from_pretrained(repo)


def test_a_private_repository(
    hub: Any, saved: ConditionedProjector, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.proxy.token, hub.proxy.echo = TOKEN, True
    with pytest.raises(WeightsUnavailableError, match="private and no token is set"):
        ConditionedProjector.from_pretrained(repo)
    wrong = "hf_" + TOKEN[3:][::-1]
    monkeypatch.setenv("HF_TOKEN", wrong)
    with pytest.raises(WeightsUnavailableError, match="your token has no access") as caught:
        ConditionedProjector.from_pretrained(repo)
    assert wrong not in str(caught.value)
    assert ConditionedProjector.from_pretrained(repo, token=TOKEN).config == saved.config


def test_without_a_network(hub: Any, saved: ConditionedProjector, repo: str) -> None:
    hub.go_offline()
    with pytest.raises(WeightsUnavailableError, match="HF_HUB_OFFLINE"):
        ConditionedProjector.from_pretrained(repo)


def test_a_repository_that_holds_no_projector(
    hub: Any, saved: ConditionedProjector, repo: str
) -> None:
    hub.proxy.answers = {"/config.json": (404, "EntryNotFound")}
    with pytest.raises(ModelFolderError, match=r"has no config\.json.*It holds: .*README\.md"):
        ConditionedProjector.from_pretrained(repo)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "a/b/c", "my projector"])
def test_a_name_that_no_repository_can_have(hub: Any, name: str) -> None:
    with pytest.raises(UnknownNameError, match="neither a folder nor the name of a Hub"):
        ConditionedProjector.from_pretrained(name)
