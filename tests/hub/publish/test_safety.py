"""What strangers' files and servers must not be able to do."""

import itertools
import pickle
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants
from olah_server import make_repository
from upload_server import TOKEN, UploadServer

import cassle_zoo
from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import CassleZooError, CheckpointError, ModelFolderError
from cassle_zoo.hub.cards.card import write_card
from cassle_zoo.hub.convert import convert_checkpoint
from cassle_zoo.hub.publish.pull import pull
from cassle_zoo.hub.publish.push import push
from cassle_zoo.hub.publish.verify import verify, verify_folder
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.store.folder import (
    CARD_FILE,
    FOLDER_FILES,
    MODEL_FILE,
    PROJECTOR_FILE,
    REFERENCE_FILE,
)

PICKLES = ("pytorch_model.bin", "model.pth", "projector.pt")


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture(params=["pickle", "torch"])
def trap(request: pytest.FixtureRequest, tmp_path: Path, mark: Path) -> Path:
    """Return a file that runs code where it is unpickled."""
    path = tmp_path / "trap"
    if request.param == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Trap(mark)}))
    else:
        torch.save({"state_dict": Trap(mark)}, path)
    return path


def test_the_trap_works(trap: Path, mark: Path) -> None:
    if trap.read_bytes()[:2] == b"PK":
        torch.load(trap, weights_only=False)
    else:
        pickle.loads(trap.read_bytes())
    assert mark.exists()


def trapped_folders(toy_folder: Path, trap: Path, tmp_path: Path) -> list[Path]:
    """Pickles under the names of weights, and beside them, and in their place."""
    folders = []
    for file in (MODEL_FILE, PROJECTOR_FILE, REFERENCE_FILE, "config.json", "README.md"):
        folder = Path(shutil.copytree(toy_folder, tmp_path / f"as {file}"))
        shutil.copy(trap, folder / file)
        folders.append(folder)
    folder = Path(shutil.copytree(toy_folder, tmp_path / "in its place"))
    for name in PICKLES:
        shutil.copy(trap, folder / name)
    (folder / MODEL_FILE).unlink()
    return [*folders, folder]


def test_a_malicious_file_runs_nothing_here(
    uploads: UploadServer, toy_folder: Path, trap: Path, tmp_path: Path, mark: Path
) -> None:
    with pytest.raises(CheckpointError):
        convert_checkpoint(trap, tmp_path / "converted", name="trapped")
    for folder in trapped_folders(toy_folder, trap, tmp_path):
        assert not all(check.passed for check in verify_folder(folder))
        with pytest.raises(ModelFolderError, match="is not uploaded"):
            push(folder, "org/trapped")
        with suppress(CassleZooError):
            write_reference(folder)
    assert uploads.steps == []
    beside = Path(shutil.copytree(toy_folder, tmp_path / "beside"))
    for name in PICKLES:
        shutil.copy(trap, beside / name)
    done = push(beside, "org/beside")
    assert set(done.plan.left_out) == set(PICKLES)
    assert not mark.exists()


def test_a_malicious_file_on_the_hub_runs_nothing(
    hub: Any, repo: str, toy_folder: Path, trap: Path, tmp_path: Path, mark: Path
) -> None:
    model: Any = cassle_zoo.create_model
    projector: Any = cassle_zoo.create_projector
    refuses = {
        f"as {MODEL_FILE}": model,
        f"as {PROJECTOR_FILE}": projector,
        "as config.json": model,
        "in its place": model,
    }
    for number, folder in enumerate(trapped_folders(toy_folder, trap, tmp_path)):
        trapped = f"{repo}-{number}"
        make_repository(hub.mirrors, trapped, folder)
        assert not all(check.passed for check in verify(trapped))
        for load, name in itertools.product(
            (model, projector), (f"hf-hub:{trapped}", f"local-dir:{folder}")
        ):
            refused = load is refuses.get(folder.name)
            expected: AbstractContextManager[Any] = (
                pytest.raises(ModelFolderError) if refused else suppress(CassleZooError)
            )
            with expected:
                load(name, pretrained=True)
        with suppress(CassleZooError):
            pull(trapped, tmp_path / f"pulled {number}")
    with pytest.raises(ModelFolderError, match="is not loaded: reading a pickle"):
        model(f"hf-hub:{trapped}", pretrained=True)  # the last one, without other weights
    assert not mark.exists()


def test_nothing_is_written_through_links(toy_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_folder, tmp_path / "folder"))
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    writers: dict[str, Callable[[Path], Path]]
    writers = {CARD_FILE: write_card, REFERENCE_FILE: write_reference}
    for name, write in writers.items():
        (folder / name).unlink()
        (folder / name).symlink_to(outside)
        with pytest.raises(ModelFolderError, match=f"{name} is a link"):
            write(folder)
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["../../../../../evil.safetensors", "a/../../b/evil.safetensors"])
def test_names_in_a_repository_lead_nowhere(
    hub: Any,
    repo: str,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    make_repository(hub.mirrors, repo, toy_folder)
    list_tree = HfApi.list_repo_tree

    def with_evil_name(*args: Any, **kwargs: Any) -> Any:
        found = list(list_tree(*args, **kwargs))
        return [*found, type(found[0])(path=name, size=3, oid="0" * 40)]

    repo_info = HfApi.repo_info

    def with_evil_sibling(*args: Any, **kwargs: Any) -> Any:
        found: Any = repo_info(*args, **kwargs)
        if found.siblings:  # where older clients look first
            found.siblings.append(type(found.siblings[0])(rfilename=name))
        return found

    monkeypatch.setattr(HfApi, "list_repo_tree", with_evil_name)
    monkeypatch.setattr(HfApi, "repo_info", with_evil_sibling)
    pulled = pull(repo, tmp_path / "pulled")
    assert {path.name for path in pulled.iterdir()} == set(FOLDER_FILES)
    assert not list(tmp_path.rglob("evil*"))
    assert not any("evil.safetensors" in address for address in hub.proxy.requests)


def test_no_command_tells_the_token(
    uploads: UploadServer,
    toy_folder: Path,
    reported: Callable[[BaseException], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cassle_zoo.hub.publish.push.verify_folder", lambda folder: [])
    for step in ("info", "create", "commit"):
        for status in (401, 403, 500):
            uploads.faults = {step: status}
            assert main(["hub", "push", str(toy_folder), "org/toy"]) in (0, 2)
    uploads.faults = {"info": 403}
    assert main(["hub", "publish", "--org", "org", "--dry-run"]) == 2
    monkeypatch.setattr(constants, "ENDPOINT", f"http://user:{TOKEN}@127.0.0.1:9")
    assert main(["hub", "push", str(toy_folder), "org/toy"]) == 2
    output = reported(RuntimeError())
    assert "org/toy" in output
    assert TOKEN not in output
