"""`resolve` says where a model is, and each file is read once per call."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import cassle_zoo
from cassle_zoo.common.errors import ModelFolderError, UnknownNameError, WeightsUnavailableError
from cassle_zoo.common.files import sha256
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store import folder as model_folder
from cassle_zoo.store import resolve, tensors
from cassle_zoo.store.folder import CONFIG_FILE, MODEL_FILE, PROJECTOR_FILE, bundled_folder
from cassle_zoo.store.model_files import registered

NAME = "resnet18_cassle_simclr.emoji64"

_opened: list[str] = []
_hooked: list[bool] = []


def _note(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(args[0], str | bytes | Path):
        _opened.append(Path(str(args[0])).name)


@contextmanager
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count how often Python opens files, by name, and how often tensors are `loaded`."""
    if not _hooked:
        sys.addaudithook(_note)
        _hooked.append(True)
    load_file: Callable[..., Any] = safetensors.torch.load_file
    counted: Counter[str] = Counter()

    def load(path: Any, *args: Any, **kwargs: Any) -> Any:
        counted[f"{Path(path).name} loaded"] += 1
        return load_file(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "load_file", load)  # as timm calls it
        patch.setattr(tensors, "load_file", load)
        _opened.clear()
        yield counted
        counted.update(name for name in _opened if name.endswith((".json", ".safetensors")))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A user's own folder."""
    return Path(shutil.copytree(bundled_folder(MODEL_SPECS[NAME]), tmp_path / "mine"))


@pytest.fixture
def cached(copied: Path) -> Path:
    """The same with links to blobs that are named by their hashes, as in the Hub's cache."""
    for file in (MODEL_FILE, PROJECTOR_FILE):
        blob = copied.parent / sha256(copied / file)
        (copied / file).rename(blob)
        (copied / file).symlink_to(blob)
    return copied


@pytest.mark.parametrize("create", [cassle_zoo.create_model, cassle_zoo.create_projector])
def test_every_file_of_a_registered_model_is_read_once(
    create: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = MODEL_FILE if create is cassle_zoo.create_model else PROJECTOR_FILE
    with reads(monkeypatch) as found:
        create(NAME, pretrained=True)
    # The weights are opened to be hashed, and loaded by safetensors, which opens files itself.
    assert found == {CONFIG_FILE: 1, file: 1, f"{file} loaded": 1}
    with reads(monkeypatch) as found:
        create(NAME)
    assert not found


@pytest.mark.parametrize("create", [cassle_zoo.create_model, cassle_zoo.create_projector])
def test_every_file_of_a_folder_is_read_once(
    create: Callable[..., Any], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = MODEL_FILE if create is cassle_zoo.create_model else PROJECTOR_FILE
    with reads(monkeypatch) as found:
        create(f"local-dir:{copied}", pretrained=True)
    assert found == {CONFIG_FILE: 1, f"{file} loaded": 1}
    with reads(monkeypatch) as found:
        create(f"local-dir:{copied}")
    assert found == {CONFIG_FILE: 1}


def test_a_registered_model() -> None:
    files = resolve(NAME.partition(".")[0], [MODEL_FILE])
    spec = MODEL_SPECS[NAME]
    assert (files.spec, files.folder, files.commit) == (spec, bundled_folder(spec), None)
    assert files.verified and files.has_projector
    assert spec.sha256 is not None
    assert files.hashes == {file: spec.sha256[file] for file in (CONFIG_FILE, MODEL_FILE)}
    assert files.sha256(PROJECTOR_FILE) == spec.sha256[PROJECTOR_FILE]
    assert files.config == model_folder.read_config(files.folder)
    assert resolve(NAME).hashes == spec.sha256


def test_a_folder(cached: Path) -> None:
    files = resolve(f"local-dir:{cached}", [PROJECTOR_FILE])
    spec = MODEL_SPECS[NAME]
    assert (files.folder, files.commit, files.verified) == (cached, None, False)
    assert (files.spec.full_name, files.spec.sha256, files.spec.hub_repo) == (NAME, None, None)
    assert spec.sha256 is not None
    assert files.hashes == {CONFIG_FILE: spec.sha256[CONFIG_FILE]}
    weights = {file: spec.sha256[file] for file in (CONFIG_FILE, MODEL_FILE, PROJECTOR_FILE)}
    assert resolve(f"local-dir:{cached}").hashes == weights


def test_a_file_that_is_missing(copied: Path) -> None:
    (copied / PROJECTOR_FILE).unlink()
    resolve(f"local-dir:{copied}", [MODEL_FILE])
    for files in (None, [PROJECTOR_FILE]):
        with pytest.raises(ModelFolderError, match=r"projector\.safetensors is missing"):
            resolve(f"local-dir:{copied}", files)
    with pytest.raises(ModelFolderError, match=r"published without notes\.txt"):
        resolve(NAME, ["notes.txt"])


def test_registered() -> None:
    spec = registered("resnet18_cassle_simclr")
    assert spec is not None and spec.full_name == NAME
    assert registered("hf-hub:org/name@v1") is None
    assert registered("local-dir:/nowhere") is None
    for name in ("resnet18_casle", "org/name"):
        with pytest.raises(UnknownNameError, match=name):
            registered(name)
    with pytest.raises(WeightsUnavailableError, match="cassle-zoo train"):
        resolve("resnet50_cassle_simclr.in100")


def test_a_path_is_told_how_to_name_what_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").touch()
    for folder, files in {"mine": ["config.json"], "run": ["config.json", "checkpoint.pt"]}.items():
        for file in files:
            Path("in", folder).mkdir(parents=True, exist_ok=True)
            Path("in", folder, file).touch()
        Path(folder).symlink_to(Path("in", folder))
    for prefix in ("", "in/"):
        with pytest.raises(UnknownNameError, match=f"write 'local-dir:{prefix}mine'"):
            resolve(f"{prefix}mine")
        with pytest.raises(UnknownNameError, match=f"`cassle-zoo hub export {prefix}run -o DIR`"):
            resolve(f"{prefix}run")
    with pytest.raises(UnknownNameError, match=r"`cassle-zoo hub convert weights.pth --name"):
        resolve("weights.pth")
