"""Tar archives of images: the same images as in the folder, and damaged ones are refused."""

import gzip
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cassle_zoo.common.errors import DataError
from cassle_zoo.train.config import DataConfig
from cassle_zoo.train.data.archives import TarImages
from cassle_zoo.train.data.folder import FolderImages
from cassle_zoo.train.data.loading import open_dataset


@pytest.fixture
def archive(images: Path, tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(images, ".")
    return tmp_path / "images.tar"


def test_the_same_as_the_folder(images: Path, archive: Path) -> None:
    folder, tar = FolderImages(images), open_dataset(DataConfig(root=str(archive)))
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


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


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
