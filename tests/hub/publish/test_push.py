"""Uploads by the real client to a server on this machine."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save_file
from toy import TOY, save_toy
from upload_server import DROP, TOKEN, UploadServer

from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import ConfigError, HubError, ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.publish.push import push
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.store.folder import CONFIG_FILE, FOLDER_FILES, MODEL_FILE, WHITENING_FILE

REPO = "org/toy"
WRITING = {"create", "yaml", "preupload", "batch", "put", "verify", "commit"}


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time of loading the model, in tests of the upload alone."""
    monkeypatch.setattr("cassle_zoo.hub.publish.push.verify_folder", lambda folder: [])


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client try again at once."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def commits(uploads: UploadServer) -> list[str]:
    return uploads.repositories.log(REPO)


def change_weights(folder: Path) -> None:
    state = load((folder / MODEL_FILE).read_bytes())
    save_file({k: v * 0.5 if v.ndim > 1 else v for k, v in state.items()}, folder / MODEL_FILE)
    write_reference(folder)


def test_a_new_repository_gets_one_commit_with_all_files(
    uploads: UploadServer, folder: Path
) -> None:
    done = push(folder, REPO)
    assert commits(uploads) == [f"Upload {TOY.full_name}", "initial commit"]
    assert done.commit == uploads.repositories.resolve(REPO, "main")
    assert done.url == f"{uploads.endpoint}/{REPO}/commit/{done.commit}"
    for name in FOLDER_FILES[:-1]:
        assert uploads.repositories.read(REPO, name) == (folder / name).read_bytes()
    card = uploads.repositories.read(REPO, "README.md").decode()
    assert f'timm.create_model("hf-hub:{REPO}", pretrained=True)' in card
    assert "ORG/NAME" not in card
    assert REPO not in uploads.repositories.private
    assert uploads.steps.count("put") == 3


def test_private(uploads: UploadServer, folder: Path, unverified: None) -> None:
    assert push(folder, REPO, private=True).plan.private
    assert REPO in uploads.repositories.private
    assert push(folder, REPO).plan.private  # it stays what it is


def test_a_public_repository_is_not_taken_for_a_private_one(
    uploads: UploadServer, folder: Path
) -> None:
    uploads.repositories.create(REPO, private=False)
    with pytest.raises(ConfigError, match="exists and is public, so nothing is uploaded"):
        push(folder, REPO, private=True)
    assert not WRITING & set(uploads.steps)


def test_what_has_not_changed_is_not_sent(
    uploads: UploadServer, folder: Path, unverified: None
) -> None:
    first = push(folder, REPO)
    uploads.steps.clear()
    second = push(folder, REPO)
    assert not WRITING & set(uploads.steps)
    assert (second.commit, second.url) == (first.commit, first.url)
    assert {file.state for file in second.plan.files} == {"unchanged"}

    change_weights(folder)
    third = push(folder, REPO)
    states = {file.name: file.state for file in third.plan.files}
    assert states == {
        "model.safetensors": "changed",
        "projector.safetensors": "unchanged",
        "config.json": "unchanged",
        "reference.safetensors": "changed",
        "README.md": "unchanged",
    }
    assert uploads.steps.count("put") == 2
    assert len(commits(uploads)) == 3


def test_a_readme_of_the_repository_stays(
    uploads: UploadServer, folder: Path, unverified: None
) -> None:
    first = push(folder, REPO).commit
    edited = {"README.md": b"---\nlicense: mit\n---\nBetter words.\n"}
    parent = uploads.repositories.commit(REPO, "refs/heads/main", first, edited, "Edit")
    done = push(folder, REPO)
    assert (done.plan.files[-1].state, done.commit) == ("kept", parent)
    change_weights(folder)
    push(folder, REPO)
    assert uploads.repositories.read(REPO, "README.md") == edited["README.md"]
    push(folder, REPO, replace_card=True)
    assert b"Better words" not in uploads.repositories.read(REPO, "README.md")


def test_what_the_folder_no_longer_has_is_removed(
    uploads: UploadServer, folder: Path, unverified: None
) -> None:
    """Else the whitening of former weights would be applied to the features of the new ones."""
    first = push(folder, REPO).commit
    former = {WHITENING_FILE: b"of former weights", "notes.txt": b"mine"}
    parent = uploads.repositories.commit(REPO, "refs/heads/main", first, former, "Add")
    plan = push(folder, REPO, dry_run=True).plan
    assert (plan.parent, plan.removed) == (parent, (WHITENING_FILE,))
    done = push(folder, REPO)
    found = uploads.repositories.files(REPO, str(done.commit))
    assert found.keys() == {".gitattributes", "notes.txt", *FOLDER_FILES}
    assert push(folder, REPO).commit == done.commit


def test_a_pull_request_leaves_main(
    uploads: UploadServer, folder: Path, unverified: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = push(folder, REPO)
    change_weights(folder)
    argv = ["hub", "push", str(folder), REPO, "--create-pr"]
    assert main([*argv, "--dry-run"]) == 0
    assert "the commit would go to a pull request" in capsys.readouterr().out
    assert main(argv) == 0
    commit = uploads.repositories.resolve(REPO, "refs/pr/1")
    said = f"url:    {uploads.endpoint}/{REPO}/discussions/1\ncommit: {commit}\n"
    assert capsys.readouterr().out.endswith(said)
    assert uploads.repositories.resolve(REPO, "main") == first.commit != commit


def test_a_pull_request_needs_a_repository(uploads: UploadServer, folder: Path) -> None:
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match=r"no repository 'org/toy' for a pull request.*--cre"):
            push(folder, REPO, create_pr=True, dry_run=dry_run)
    assert not WRITING & set(uploads.steps)


def test_a_plan_says_everything_and_writes_nothing(uploads: UploadServer, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoints").mkdir()
    plan = push(folder, REPO, private=True, dry_run=True).plan
    assert (plan.parent, plan.private, plan.model) == (None, True, TOY.full_name)
    assert plan.left_out == ("checkpoints", "notes.txt")
    assert [file.name for file in plan.files] == list(FOLDER_FILES)
    for file in plan.files[:-1]:
        path = folder / file.name
        assert (file.state, file.size) == ("new", path.stat().st_size)
        assert file.sha256 == sha256(path)
    assert not WRITING & set(uploads.steps)
    assert not uploads.repositories.exists(REPO)

    done = push(folder, REPO, private=True)
    assert done.plan == plan
    card = uploads.repositories.read(REPO, "README.md")
    assert hashlib.sha256(card).hexdigest() == plan.files[-1].sha256


def test_nothing_else_in_the_folder_is_uploaded(
    uploads: UploadServer, folder: Path, unverified: None
) -> None:
    for name in (".env", "pytorch_model.bin", "id_rsa", "other.safetensors"):
        (folder / name).write_text("secret")
    done = push(folder, REPO)
    found = uploads.repositories.files(REPO, str(done.commit))
    assert found.keys() == {".gitattributes", *FOLDER_FILES}


@pytest.mark.parametrize("name", ["README.md", MODEL_FILE])
def test_a_link_out_of_the_folder_is_not_followed(
    uploads: UploadServer, folder: Path, tmp_path: Path, name: str
) -> None:
    outside = (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(outside)
    with pytest.raises(ModelFolderError, match=r"symbolic link .*out of the folder"):
        push(folder, REPO)
    assert uploads.steps == []


def test_a_folder_that_fails_a_check_is_not_uploaded(uploads: UploadServer, folder: Path) -> None:
    (folder / "README.md").write_text("no metadata")
    config = (folder / CONFIG_FILE).read_text()
    (folder / CONFIG_FILE).write_text(config.replace("0.5,", "0.6,"))
    with pytest.raises(ModelFolderError, match=r"(?s)hashes:.*reference:.*card:") as caught:
        push(folder, REPO)
    assert not re.search(r"[.;:][.;:]", str(caught.value))
    assert uploads.steps == []


@pytest.mark.parametrize("repo_id", ["toy", "a/b/c", "org/..", "../org", "org/to y", "org/toy.git"])
def test_malformed_names(uploads: UploadServer, folder: Path, repo_id: str) -> None:
    with pytest.raises(ConfigError, match="write ORG/NAME") as caught:
        push(folder, repo_id)
    assert "repo_type" not in str(caught.value)
    assert uploads.steps == []


def test_somebody_else_pushes_meanwhile(
    uploads: UploadServer, folder: Path, unverified: None
) -> None:
    first = push(folder, REPO).commit
    change_weights(folder)
    uploads.before["commit"] = lambda: uploads.repositories.commit(
        REPO, "refs/heads/main", first, {"other.txt": b""}, "Other"
    )
    with pytest.raises(HubError, match="it changed meanwhile; nothing was committed"):
        push(folder, REPO)
    assert commits(uploads)[0] == "Other"


def test_a_file_that_the_hub_leaves_out_is_noticed(uploads: UploadServer, folder: Path) -> None:
    uploads.ignored = {"projector.safetensors"}
    with pytest.raises(HubError, match=r"does not hold projector\.safetensors as sent.*gitignore"):
        push(folder, REPO)


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("info", 403), ("info", 500), ("info", DROP), ("paths", 401), ("paths", DROP),
        ("create", 401), ("create", 403), ("create", 409), ("preupload", 403),
        ("batch", 500), ("put", 403), ("put", 500), ("put", DROP), ("verify", 500),
        ("commit", 401), ("commit", 403), ("commit", 409), ("commit", 500), ("commit", DROP),
    ],
)  # fmt: skip
def test_a_failure_commits_nothing_and_tells_no_token(
    uploads: UploadServer,
    folder: Path,
    step: str,
    fault: Any,
    no_waiting: None,
    unverified: None,
    reported: Callable[[BaseException], str],
) -> None:
    if step == "paths":
        uploads.repositories.create(REPO, private=False)
    uploads.faults[step] = fault
    with pytest.raises(HubError, match=r"'org/toy' at http://127\.0\.0\.1") as caught:
        push(folder, REPO)
    assert TOKEN not in reported(caught.value)
    assert re.search(r"[^.:]\)\.$", str(caught.value))
    assert not re.search(r"[.;:] ?[.;,)]|repo_type", str(caught.value))
    assert not uploads.repositories.exists(REPO) or commits(uploads) == ["initial commit"]
    uploads.faults.clear()
    push(folder, REPO)
    assert len(commits(uploads)) == 2


def test_what_arrived_before_a_failure_is_not_sent_again(
    uploads: UploadServer, folder: Path, unverified: None
) -> None:
    uploads.faults["commit"] = 500
    with pytest.raises(HubError, match="not sent twice"):
        push(folder, REPO)
    uploads.faults.clear()
    uploads.steps.clear()
    push(folder, REPO)
    assert "put" not in uploads.steps


def test_without_or_with_a_wrong_token(
    uploads: UploadServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"request without token .*log in"):
        push(folder, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Wrong" * 7)
    with pytest.raises(HubError, match="your token is not accepted") as caught:
        push(folder, REPO)
    assert "WrongWrong" not in str(caught.value)


def test_a_token_in_a_card_or_in_the_settings_is_not_uploaded(
    uploads: UploadServer, folder: Path, tmp_path: Path
) -> None:
    with (folder / "README.md").open("a") as card:
        card.write(f"export HF_TOKEN={TOKEN}\n")
    with pytest.raises(ModelFolderError, match="the card holds a token") as caught:
        push(folder, REPO)
    assert TOKEN not in str(caught.value)
    other = save_toy(tmp_path / "other")
    config = (other / CONFIG_FILE).read_text()
    (other / CONFIG_FILE).write_text(config.replace('"abc"', f'"{TOKEN}"'))
    write_reference(other)
    with pytest.raises(ModelFolderError, match=r"config\.json holds a Hub token") as caught:
        push(other, REPO)
    assert TOKEN not in str(caught.value)
    assert uploads.steps == []
