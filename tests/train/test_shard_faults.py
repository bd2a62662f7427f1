"""What is lost of WebDataset shards is counted, named and made up for; bad lists are refused."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from shard_files import LENGTH, NAMES, members, write_shards, write_tar

from cassle_zoo.errors import DataError
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data import batches, open_dataset

pytest.importorskip("webdataset")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture
def config(config: TrainConfig, folder: Path) -> TrainConfig:
    return changed(config, dataset="wds/tiny", root=str(folder), max_bad_share=0.5)


def changed(config: TrainConfig, **data: Any) -> TrainConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data))


def destroy_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    second = content.index(b"007.png")
    content[second : second + 512] = bytes(range(256)) * 2
    path.write_bytes(content)


DAMAGE = {
    "missing": (Path.unlink, r"from number 0 on \(No such file or directory\)", LENGTH),
    "empty": (lambda path: os.truncate(path, 0), r"from number 0 on \(.*empty.*\)", LENGTH),
    "cut": (lambda path: os.truncate(path, 3000), r"from number 1 on \(.*\)", LENGTH - 1),
    "destroyed": (destroy_header, r"from number 1 on \(it ends there\)", LENGTH - 1),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_lost_shard_is_named_counted_and_made_up_for(
    config: TrainConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    name: str, workers: int,
) -> None:  # fmt: skip
    damage, expected, lost = DAMAGE[name]
    damage(folder / NAMES[1])
    run = changed(config, workers=workers)
    assert loop.train(run, tmp_path / "run").finished
    said = re.findall("picture '(.*)' cannot be read", capsys.readouterr().err)
    assert len(said) == 1
    assert re.fullmatch(f"{NAMES[1]} {expected}", said[0])
    with pytest.raises(DataError, match=rf"^{lost} of 24 pictures cannot.*--data\.max-bad-share"):
        list(batches(changed(run, max_bad_share=0.2), open_dataset(run.data), 0, 12))


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_lost_picture_is_named(
    config: TrainConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    content: bytes,
) -> None:  # fmt: skip
    write_tar(folder / NAMES[1], {**members(1), "008.png": content})
    assert loop.train(config, tmp_path / "run").finished
    assert capsys.readouterr().err.count(f"picture '{NAMES[1]}: 008.png' cannot be read") == 1
    with pytest.raises(DataError, match=r"^1 of 24 .*008\.png"):
        loop.train(changed(config, max_bad_share=0.04), tmp_path / "strict")


def test_a_sample_without_a_picture_is_named(config: TrainConfig, folder: Path) -> None:
    files = members(2)
    del files["014.png"]
    write_tar(folder / NAMES[2], files)
    dataset = open_dataset(config.data)
    bad = torch.cat([batch["bad"] for batch in batches(config, dataset, 0, 6)])
    [number] = bad[bad >= 0].tolist()
    assert dataset.filename(number) == f"{NAMES[2]}: 014 (no picture among its files)"
    # What another process lost has no name here.
    assert open_dataset(config.data).filename(number) == f"{NAMES[2]} number 2"


def test_no_labels_are_needed(config: TrainConfig, tmp_path: Path) -> None:
    write_shards(tmp_path / "plain", labels=False)
    run = changed(config, root=str(tmp_path / "plain"), max_bad_share=0.0)
    assert loop.train(run, tmp_path / "run").finished


def test_nothing_can_be_read(config: TrainConfig, folder: Path) -> None:
    for name in NAMES:
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"no picture of the stream.*No such file"):
        list(batches(changed(config, max_bad_share=1), open_dataset(config.data), 0, 1))


def test_more_samples_than_there_are(config: TrainConfig) -> None:
    with pytest.raises(DataError, match=r"--data\.samples 100 is more than the 24 pictures"):
        open_dataset(changed(config, samples=100).data)
    assert len(open_dataset(changed(config, samples=20).data)) == 20
