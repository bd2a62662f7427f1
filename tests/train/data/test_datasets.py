"""Opening datasets: timm's factory, and tar archives, which hold what the folder holds."""

import dataclasses
import gzip
import os
import pickle
import re
import shutil
import struct
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_images import bomb
from builders import make_image
from PIL import Image
from torchvision.datasets import STL10

from cassle_zoo.common.errors import DataError, MissingDependencyError, UnknownNameError
from cassle_zoo.common.images import UnreadableImageError
from cassle_zoo.train import loop
from cassle_zoo.train.config import DataConfig, TrainConfig
from cassle_zoo.train.data.datasets import TarImages, TorchImages, open_dataset, open_folder
from cassle_zoo.train.recipes import get_recipe
from cassle_zoo.train.run.monitor import Monitor


@pytest.mark.parametrize("name", ["emoij64", "foo", "folder", "wds", "imagenet", "Torch/cifar10"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(
        UnknownNameError, match=rf"{name}.*Available: emoji64, hfds/NAME.*'' is for"
    ):
        DataConfig(dataset=name)


@pytest.mark.parametrize("name", ["", "emoji64", "wds/x", "hfds/a/b", "torch/cifar10", "tfds/x"])
def test_known_names(name: str) -> None:
    assert DataConfig(dataset=name).is_stream == (name in ("wds/x", "tfds/x"))


@pytest.mark.parametrize(
    ("name", "package", "fix"),
    [
        ("wds/x", "webdataset", r'pip install "cassle-zoo\[wds\]"'),
        ("hfds/x", "datasets", r'pip install "cassle-zoo\[hfds\]"'),
        ("tfds/x", "tensorflow", "pip install tensorflow tensorflow-datasets"),
    ],
)
def test_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, fix: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_tfds", raising=False)
    with pytest.raises(MissingDependencyError, match=rf"need {package}.*{fix}"):
        open_dataset(DataConfig(dataset=name, root=str(tmp_path)))


@pytest.fixture
def config(config: TrainConfig, images: Path, tmp_path: Path) -> TrainConfig:
    """A run on torchvision's reading of a folder in which one image is a bomb."""
    shutil.copytree(images, tmp_path / "copy")
    (tmp_path / "copy" / "class1" / "07.png").write_bytes(bomb())
    data = DataConfig(root=str(tmp_path / "copy"), dataset="torch/image_folder", workers=0)
    return dataclasses.replace(config, data=data)


def test_a_bomb_is_one_bad_image(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loop.train(config, tmp_path / "run").finished  # it looks at the features, too
    assert capsys.readouterr().err.count("'class1/07.png' cannot be read") == 1


def test_whatever_a_decoder_raises_is_one_bad_image() -> None:
    class Source:
        def __getitem__(self, index: int) -> Any:
            raise (SyntaxError("broken"), struct.error(), Image.DecompressionBombError())[index]

    for index in range(3):
        with pytest.raises(UnreadableImageError, match=f"number {index}"):
            TorchImages(Source())[index]


def test_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = get_recipe("resnet18_cassle_simclr.stl10").data
    data = dataclasses.replace(data, root=str(tmp_path))
    with pytest.raises(DataError, match="Dataset not found or corrupted"):
        open_dataset(data)
    (tmp_path / STL10.base_folder).mkdir()
    pixels = torch.arange(2 * 3 * 96 * 96).remainder(251).to(torch.uint8).numpy()
    pixels.tofile(tmp_path / STL10.base_folder / "unlabeled_X.bin")
    monkeypatch.setattr(STL10, "_check_integrity", lambda _: True)
    dataset = open_dataset(data)
    assert len(dataset) == 2
    image, label = dataset[1]
    assert (image.size, label) == ((96, 96), -1)
    assert dataset.filename(1) == "number 1"


def test_samples_are_for_streams(config: TrainConfig, images: Path) -> None:
    with pytest.raises(DataError, match=r"--data\.samples 100 is for streams.* 22 images"):
        open_dataset(DataConfig(root=str(images), samples=100))
    assert len(open_dataset(DataConfig(root=str(images), samples=22))) == 22


def test_a_split_that_takes_the_place_of_the_folder_is_named(
    config: TrainConfig, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "mine"
    shutil.copytree(images, root / "train")
    shutil.copy(next(images.rglob("*.png")), root)
    run = dataclasses.replace(config, data=DataConfig(root=str(root), workers=0))
    assert loop.train(run, tmp_path / "run").finished
    said = f"only the folder 'train' of {str(root)!r} is used; --data.split '' takes all folders."
    assert said in capsys.readouterr().err
    assert len(open_dataset(DataConfig(root=str(root), split=""))) == 23


def test_one_image_has_no_spread(config: TrainConfig) -> None:
    monitor = Monitor(open_dataset(config.data), config.augment, samples=1)
    assert monitor(torch.nn.Flatten(), torch.device("cpu")) == {}


def test_labels_that_are_no_numbers_are_none(config: TrainConfig) -> None:
    labels = ("cat", [1, 2], None, np.int64(3))
    images = [(make_image(seed), label) for seed, label in enumerate(labels)]
    backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    measured = Monitor(images, config.augment, samples=4)(backbone, torch.device("cpu"))
    assert measured.keys() == {"feature_std"}


def test_what_the_monitor_measures(config: TrainConfig) -> None:
    """Every other one of 40 images is looked at; half of these are the neighbours of the others."""
    colours = np.array([[250, 0, 0], [0, 250, 0]], np.uint8)
    images = []
    for number in range(40):
        label = number // 4 % 2
        own = number % 4 == 0 or number in (2, 18)  # all neighbours, two of ten classified
        image = Image.new("RGB", (9, 9), tuple(colours[label].tolist()))
        images.append((image, None if number % 2 else label if own else 1 - label))
    backbone = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    measured = Monitor(images, config.augment, samples=20)(backbone, torch.device("cpu"))
    assert measured["knn_top1"] == pytest.approx(0.2)
    pixels = (colours / 255 - config.augment.mean) / config.augment.std
    rows = (pixels / np.linalg.norm(pixels, axis=1, keepdims=True)).repeat(10, axis=0)
    assert measured["feature_std"] == pytest.approx(rows.std(0, ddof=1).mean() * 3**0.5, rel=1e-5)


def test_a_split_that_is_not_there(images: Path, tmp_path: Path) -> None:
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(images, "images")
    for root in (images, archive):
        assert len(open_dataset(DataConfig(root=str(root)))) == 22
        with pytest.raises(DataError, match=r"no folder 'val'.*--data\.split ''"):
            open_dataset(DataConfig(root=str(root), split="val"))
    with pytest.raises(DataError, match=r"emoji64 .*only .*'train'"):
        open_dataset(DataConfig(root=str(archive), dataset="emoji64", split="test"))


@pytest.fixture
def archive(images: Path, tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(images, ".")
    return tmp_path / "images.tar"


def test_the_same_as_the_folder(images: Path, archive: Path) -> None:
    folder, tar = open_folder(images), open_dataset(DataConfig(root=str(archive)))
    assert isinstance(tar, TarImages)
    assert len(tar) == len(folder) == 22
    assert tar.notes == []
    tar[0]  # opens the file, which workers that are not forked cannot be sent
    for copy in (tar, pickle.loads(pickle.dumps(tar))):
        for index in range(22):
            assert copy.filename(index) == f"./{folder.filename(index)}"
            image, label = copy[index]
            assert (image, label) == folder[index]


def test_every_kind_of_image_but_hidden_ones(images: Path, tmp_path: Path) -> None:
    with Image.open(next(images.rglob("*.png"))) as image:
        for name in ("a.webp", "b.GIF", "c.tif", "._d.jpg", "e.txt"):
            image.save(tmp_path / name, "PNG")
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for path in tmp_path.glob("*.*"):
            if path.suffix != ".tar":
                tar.add(path, path.name)
    opened = TarImages(tmp_path / "some.tar")
    assert [opened.filename(index) for index in range(len(opened))] == ["a.webp", "b.GIF", "c.tif"]


def test_no_index_is_kept_beside_it(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = archive.with_name("_images_tarinfos.pickle")
    stale.write_bytes(b"of another archive, or hostile")
    monkeypatch.setattr(os.path, "getsize", lambda _: 11 * 1024**3)  # timm asks this way
    assert len(open_dataset(DataConfig(root=str(archive)))) == 22
    assert sorted(path.name for path in archive.parent.iterdir()) == [stale.name, archive.name]


def cut(fraction: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * fraction))


def destroy_header(path: Path) -> None:
    with tarfile.open(path) as tar:
        start = tar.getmembers()[9].offset
    content = bytearray(path.read_bytes())
    content[start : start + 512] = bytes(range(256)) * 2
    path.write_bytes(content)


def within_a_header(path: Path) -> None:
    with tarfile.open(path) as tar:
        os.truncate(path, tar.getmembers()[9].offset + 100)


@pytest.mark.parametrize("damage", [cut(0.3), cut(0.5), destroy_header, within_a_header])
def test_damaged_archive(archive: Path, damage: Callable[[Path], None]) -> None:
    damage(archive)
    with pytest.raises(DataError, match=r"damaged or cut off after \d+ images, at byte"):
        TarImages(archive)


def test_archive_without_an_end_mark(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        os.truncate(archive, tar.getmembers()[9].offset)
    [note] = TarImages(archive).notes
    assert "no end mark: it may have been cut off" in note


@pytest.mark.parametrize("content", [b"", b"random" * 1000, gzip.compress(b"a tar" * 9, mtime=0)])
def test_not_an_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{str(path)!r} as an uncompressed tar")):
        open_dataset(DataConfig(root=str(path)))


def test_archive_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    with tarfile.open(tmp_path / "notes.tar", "w") as tar:
        tar.add(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(DataError, match=r"notes\.tar' holds no images"):
        open_dataset(DataConfig(root=str(tmp_path / "notes.tar")))
