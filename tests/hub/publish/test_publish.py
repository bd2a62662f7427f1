"""The whole way: pushed by the client, served by olah, loaded by name."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from huggingface_hub import constants
from olah_server import make_repository
from safetensors.torch import load_file
from toy import TOY, save_toy
from upload_server import TOKEN, UploadServer, upload_server

from cassle_zoo import specs
from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.publish.pull import pull
from cassle_zoo.hub.publish.push import publish, push, registry_lines
from cassle_zoo.hub.publish.verify import verify
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store import folder as model_folder
from cassle_zoo.store.folder import CARD_FILE, FOLDER_FILES, MODEL_FILE, REFERENCE_FILE


@pytest.fixture
def inbox(hub: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadServer]:
    """Return a server that takes uploads into the repositories that olah serves."""
    with upload_server(hub.mirrors) as server:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


TIMM_ALONE = """
import sys
sys.modules["cassle_zoo"] = None  # importing it fails, as if it were not installed
import timm, torch
from safetensors.torch import load_file
stored = load_file(sys.argv[2])
model = timm.create_model(f"hf-hub:{sys.argv[1]}", pretrained=True).eval()
assert model.num_classes == 0
cfg = timm.data.resolve_model_data_config(model)
mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
with torch.no_grad():
    found = model((stored["images"] / 255 - mean) / std)
torch.testing.assert_close(found, stored["features"], rtol=1e-4, atol=1e-5)
"""
WITH_CASSLE_ZOO = """
import sys
import cassle_zoo, torch
from safetensors.torch import load_file
stored = load_file(sys.argv[2])
projector = cassle_zoo.create_projector(f"hf-hub:{sys.argv[1]}", pretrained=True).eval()
with torch.no_grad():
    found = projector(stored["features"], stored["descriptors"])
torch.testing.assert_close(found, stored["projections"], rtol=1e-4, atol=1e-4)
from cassle_zoo.cli.main import main
sys.exit(main(["hub", "verify", sys.argv[1]]))
"""


def test_what_was_pushed_loads_by_name_in_a_fresh_process(
    hub: Any, inbox: UploadServer, repo: str, toy_folder: Path, tmp_path: Path
) -> None:
    with patch.object(constants, "ENDPOINT", inbox.endpoint):
        push(toy_folder, repo)
    environment = {**hub.environment(), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for script in (TIMM_ALONE, WITH_CASSLE_ZOO):
        if script is TIMM_ALONE:
            env = {key: value for key, value in environment.items() if key != "PYTHONPATH"}
        else:
            env = environment
        done = subprocess.run(
            [sys.executable, "-c", script, repo, str(toy_folder / REFERENCE_FILE)],
            check=False,
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
    assert done.stdout.count("ok ") == 7


def test_verify_and_pull_a_repository(
    hub: Any, inbox: UploadServer, repo: str, toy_folder: Path, tmp_path: Path
) -> None:
    with patch.object(constants, "ENDPOINT", inbox.endpoint):
        commit = push(toy_folder, repo).commit
    checks = verify(repo)
    assert all(check.passed for check in checks), checks
    assert f"as in commit {commit} of {repo}" in checks[0].detail
    assert verify(repo, revision=commit) == checks
    for revision, status in ((str(commit), 0), ("nope", 2)):
        assert main(["hub", "verify", repo, "--revision", revision]) == status
    assert all(check.passed for check in verify(str(pull(repo))))

    target = pull(repo, tmp_path / "mine")
    assert {path.name for path in target.iterdir()} == set(FOLDER_FILES)
    assert not any(path.is_symlink() for path in target.iterdir())
    assert all(check.passed for check in verify(str(target)))
    (hub.cached(MODEL_FILE)[0]).resolve().write_bytes(b"damaged")
    assert [check.passed for check in verify(repo)] == [False]
    pull(repo, force=True)
    assert all(check.passed for check in verify(repo))


def test_a_repository_whose_weights_are_wrong(
    hub: Any, repo: str, toy_folder: Path, tmp_path: Path
) -> None:
    other = save_toy(tmp_path / "other", seed=1)
    for name in (MODEL_FILE, "README.md"):
        (other / name).write_bytes((toy_folder / name).read_bytes())
    make_repository(hub.mirrors, repo, other)
    failed = {check.name for check in verify(repo) if not check.passed}
    assert failed == {"hashes", "reference"}


def test_pull_does_not_destroy(hub: Any, repo: str, toy_folder: Path, tmp_path: Path) -> None:
    make_repository(hub.mirrors, repo, toy_folder)
    target = tmp_path / "target"
    pull(repo, target)
    with pytest.raises(ModelFolderError, match="not empty"):
        pull(repo, target)
    pull(repo, target, force=True)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ModelFolderError, match=r"holds notes\.txt"):
        pull(repo, target, force=True)
    assert (target / "notes.txt").read_text() == "mine"
    with pytest.raises(ModelFolderError, match="is the folder itself"):
        pull(str(toy_folder), toy_folder, force=True)


def test_the_zoo_is_published_and_pinned(
    hub: Any,
    inbox: UploadServer,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, org = TOY.full_name, "the-zoo"
    weights = tmp_path / "weights"
    pull(str(toy_folder), weights / name)
    hashes = {f: sha256(toy_folder / f) for f in FOLDER_FILES[:-1]}
    released = dataclasses.replace(TOY, sha256=hashes)
    monkeypatch.setattr(model_folder, "WEIGHTS_ROOT", weights)
    zoo = {name: released, "other": dataclasses.replace(TOY, sha256=None)}
    monkeypatch.setattr("cassle_zoo.hub.publish.push.MODEL_SPECS", zoo)
    with patch.object(constants, "ENDPOINT", inbox.endpoint):
        assert main(["hub", "publish", "--org", org, "--private", "--dry-run"]) == 0
        assert "COMMIT" in capsys.readouterr().out
        assert not inbox.repositories.exists(f"{org}/{name}")
        assert main(["hub", "publish", "--org", org, "--private"]) == 0
        output = capsys.readouterr().out
        edited = {CARD_FILE: b"---\nlicense: mit\n---\nBetter words.\n"}
        first = inbox.repositories.resolve(f"{org}/{name}", "main")
        inbox.repositories.commit(f"{org}/{name}", "refs/heads/main", first, edited, "Edit")
        assert next(iter(publish(org, dry_run=True))).plan.files[-1].state == "kept"
        assert main(["hub", "publish", "--org", org, "--replace-card"]) == 0
        output = capsys.readouterr().out
        (again,) = publish(org)
        assert again.plan.files[-1].state == "unchanged"
    assert f"{org}/{name}" in inbox.repositories.private
    commit = inbox.repositories.resolve(f"{org}/{name}", "main")
    assert again.commit == commit

    printed = output.split("for cassle_zoo/specs.py:\n\n")[1]
    assert printed.rstrip("\n") == registry_lines([again])
    entries: dict[str, Any] = vars(specs).copy()
    exec(printed, entries)
    assert entries["_HUB"] == {name: (f"{org}/{name}", commit)}
    assert entries["_SHA256"] == {name: hashes}

    pinned = dataclasses.replace(released, hub_repo=f"{org}/{name}", hub_revision=commit)
    monkeypatch.setitem(MODEL_SPECS, name, pinned)
    monkeypatch.setattr(model_folder, "WEIGHTS_ROOT", tmp_path / "nothing is bundled")
    checks = verify(name)
    assert all(check.passed for check in checks), checks
    assert "and in the registry" in checks[2].detail
    assert verify(f"{org}/{name}@{commit}")[2] == checks[2]
    # To another organisation, from the Hub.
    with patch.object(constants, "ENDPOINT", inbox.endpoint):
        monkeypatch.setattr("cassle_zoo.hub.publish.push.MODEL_SPECS", {name: pinned})
        (copied,) = publish("another")
    assert copied.commit is not None


def test_commands(
    hub: Any,
    inbox: UploadServer,
    repo: str,
    toy_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with patch.object(constants, "ENDPOINT", inbox.endpoint):
        assert main(["hub", "push", str(toy_folder), repo, "--dry-run"]) == 0
        planned = capsys.readouterr().out
        assert "dry run: nothing was written; the commit would go to main" in planned
        assert f"{TOY.full_name} -> {repo} (new repository, public)" in planned
        for name in FOLDER_FILES[:-1]:
            assert f"{sha256(toy_folder / name)}  {name}" in planned
        assert not inbox.repositories.exists(repo)
        assert main(["hub", "push", str(toy_folder), repo]) == 0
        assert f"commit: {inbox.repositories.resolve(repo, 'main')}" in capsys.readouterr().out
    assert main(["hub", "pull", repo]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert torch.equal(
        load_file(folder / REFERENCE_FILE)["features"],
        load_file(toy_folder / REFERENCE_FILE)["features"],
    )
