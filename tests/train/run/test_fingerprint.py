"""A run continues with the images it began with, wherever they are now, and no others."""

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from changes import change
from PIL import Image
from torch.utils.data import IterableDataset

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint, save_checkpoint
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.hub.upgrade import upgrade
from cassle_zoo.records import SETTINGS_FILE
from cassle_zoo.train import loop
from cassle_zoo.train.config import DataConfig, TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.run.fingerprint import check_same_run, images_fingerprint


def on(config: TrainConfig, folder: Path) -> TrainConfig:
    return change(config, "data", root=str(folder))


@pytest.fixture
def own(images: Path, tmp_path: Path) -> Path:
    """A copy of the images that a test may change."""
    return Path(shutil.copytree(images, tmp_path / "own"))


@pytest.fixture(scope="module")
def trained(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    loop.train(config, out)
    return out


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def content(run: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_moved_images_continue(config: TrainConfig, finished: Path, own: Path) -> None:
    moved = own.rename(own.with_name("moved"))
    assert loop.train(on(config, moved), finished) == loop.TrainResult(steps=10, finished=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda own: [(own / f"{i}.png").symlink_to(own / "class0/00.png") for i in range(22)],
         r"22 there, 44 now.*point --data.*another --out"),
        (lambda own: shutil.rmtree(own / "class0"), "22 there, 11 now"),
        (lambda own: (own / "class1/01.png").rename(own / "class1/99.png"), "other names"),
    ],
    ids=["more", "fewer", "renamed"],
)  # fmt: skip
def test_other_images_are_refused(
    config: TrainConfig, finished: Path, own: Path, change: Any, says: str
) -> None:
    change(own)
    before = content(finished)
    with pytest.raises(ConfigError, match=says):
        loop.train(on(config, own), finished)
    assert content(finished) == before


def test_runs_without_a_record_continue(config: TrainConfig, finished: Path, own: Path) -> None:
    settings = json.loads((finished / SETTINGS_FILE).read_text())
    recorded = settings.pop("images")
    (finished / SETTINGS_FILE).write_text(json.dumps(settings))
    assert loop.train(on(config, own), finished).finished
    assert json.loads((finished / SETTINGS_FILE).read_text())["images"] == recorded


def test_a_run_of_0_1_0_is_refused_until_it_is_upgraded(
    config: TrainConfig, finished: Path, own: Path
) -> None:
    path = finished / SETTINGS_FILE
    text = path.read_text()
    for old, new in (
        ("how", "mode"),
        ("max_bad_share", "max_bad_fraction"),
        ("pictures", "images"),
    ):
        text = text.replace(f'"{new}"', f'"{old}"')
    path.write_text(text)
    before = content(finished)
    with pytest.raises(ConfigError, match=f"`cassle-zoo upgrade {finished}`.*--out"):
        loop.train(on(config, own), finished)
    assert content(finished) == before
    assert path in upgrade(finished)
    assert loop.train(on(config, own), finished).finished
    with pytest.raises(ConfigError, match="22 there, 1 now"):
        check_same_run(on(config, own), finished, {"count": 1, "names": None})


def test_step_beyond_the_end_is_an_error(config: TrainConfig, finished: Path, own: Path) -> None:
    state = load_checkpoint(finished)[0]
    assert state is not None
    save_checkpoint(finished, {**state, "step": 11})
    with pytest.raises(ConfigError, match=r"11 steps long already, but .* has 10"):
        loop.train(on(config, own), finished)


def test_names_of_folders_and_archives(own: Path) -> None:
    folder = images_fingerprint(open_dataset(DataConfig(root=str(own))))
    assert folder["count"] == 22
    archive = own.with_name("own.tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(own, "")
    first = images_fingerprint(open_dataset(DataConfig(root=str(archive))))
    moved = archive.rename(own.with_name("moved.tar"))
    assert images_fingerprint(open_dataset(DataConfig(root=str(moved)))) == first
    assert len(folder["names"]) == len(first["names"]) == 64


def test_streams_have_a_number_only() -> None:
    class Stream(IterableDataset[Image.Image]):
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Iterator[Image.Image]:
            return iter(())

        def filename(self, index: int) -> str:
            raise AssertionError(index)

    assert images_fingerprint(Stream()) == {"count": 5, "names": None}


def test_a_run_with_an_untrue_name_continues(
    config: TrainConfig, finished: Path, own: Path
) -> None:
    path = finished / SETTINGS_FILE
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "name": "resnet18_cassle_simclr.emoji64"}))
    assert loop.train(on(config, own), finished).finished
    path.write_text(json.dumps({**stored, "name": "another"}))
    with pytest.raises(ConfigError, match="name: 'another' there, 'tiny' now"):
        loop.train(on(config, own), finished)
