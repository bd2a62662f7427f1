"""A tiny data set with the structure of emoji64."""

import tarfile
from pathlib import Path

import pytest
from tiny_emoji64 import make_records, write_folder

from cassle_zoo.eval.emoji64_records import VENDORS, Record


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return make_records()


@pytest.fixture(scope="session")
def emoji_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("emoji64")
    write_folder(root)
    return root


@pytest.fixture(scope="session")
def emoji_tar(emoji_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "emoji64.tar"
    with tarfile.open(path, "w") as archive:
        for name in ["metadata.csv", *(f"{vendor}/" for vendor in VENDORS)]:
            archive.add(emoji_folder / name, name)
    return path
