"""What is lost of WebDataset shards is counted, named and made up for; bad lists are refused."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import write_tar
from changes import change
from shard_files import LENGTH, NAMES, members, write_info, write_shards

from cassle_zoo.common.errors import DataError
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.data.shards import Shards, list_shards

pytest.importorskip("webdataset")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture
def config(config: TrainConfig, folder: Path) -> TrainConfig:
    return change(config, "data", dataset="wds/tiny", root=str(folder), max_bad_fraction=0.5)


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
    run = change(config, "data", workers=workers)
    assert loop.train(run, tmp_path / "run").finished
    said = re.findall("image '(.*)' cannot be read", capsys.readouterr().err)
    assert len(said) == 1
    assert re.fullmatch(f"{NAMES[1]} {expected}", said[0])
    with pytest.raises(DataError, match=rf"^{lost} of 24 images cannot.*--data\.max-bad-fraction"):
        list(batches(change(run, "data", max_bad_fraction=0.2), open_dataset(run.data), 0, 12))


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_lost_image_is_named(
    config: TrainConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    content: bytes,
) -> None:  # fmt: skip
    write_tar(folder / NAMES[1], {**members(1), "008.png": content})
    assert loop.train(config, tmp_path / "run").finished
    assert capsys.readouterr().err.count(f"image '{NAMES[1]}: 008.png' cannot be read") == 1
    with pytest.raises(DataError, match=r"^1 of 24 .*008\.png"):
        loop.train(change(config, "data", max_bad_fraction=0.04), tmp_path / "strict")


def test_a_sample_without_an_image_is_named(config: TrainConfig, folder: Path) -> None:
    files = members(2)
    del files["014.png"]
    write_tar(folder / NAMES[2], files)
    dataset = open_dataset(config.data)
    bad = torch.cat([batch["bad"] for batch in batches(config, dataset, 0, 6)])
    [number] = bad[bad >= 0].tolist()
    assert dataset.filename(number) == f"{NAMES[2]}: 014 (no image among its files)"
    # What another process lost has no name here.
    assert open_dataset(config.data).filename(number) == f"{NAMES[2]} number 2"


def test_no_labels_are_needed(config: TrainConfig, tmp_path: Path) -> None:
    write_shards(tmp_path / "plain", labels=False)
    run = change(config, "data", root=str(tmp_path / "plain"), max_bad_fraction=0.0)
    assert loop.train(run, tmp_path / "run").finished


def test_nothing_can_be_read(config: TrainConfig, folder: Path) -> None:
    for name in NAMES:
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"no image of the stream.*No such file"):
        list(batches(change(config, "data", max_bad_fraction=1), open_dataset(config.data), 0, 1))


def test_more_samples_than_there_are(config: TrainConfig) -> None:
    with pytest.raises(DataError, match=r"--data\.samples 100 .*24 images"):
        open_dataset(change(config, "data", samples=100).data)
    assert len(open_dataset(change(config, "data", samples=20).data)) == 20


def test_more_workers_than_shards(config: TrainConfig) -> None:
    run = change(config, "data", workers=2)
    listed = list_shards(Path(run.data.root), "train", None)
    one = dataclasses.replace(listed, files=listed.files[:1], lengths=(LENGTH,), images=LENGTH)
    dataset = Shards(one, rank=0, world_size=1, workers=2)
    assert "workers without a shard have nothing to do (--data.workers 1)" in dataset.notes[0]
    assert len(list(batches(run, dataset, 0, 2))) == 2
    assert not Shards(listed, rank=0, world_size=2, workers=2).notes


def test_an_image_that_is_shown_again_in_an_epoch_has_other_views(config: TrainConfig) -> None:
    listed = list_shards(Path(config.data.root), "train", None)
    half = dataclasses.replace(listed, files=listed.files[:2], lengths=(LENGTH,) * 2)
    got = batches(config, Shards(half, rank=0, world_size=1, workers=0), 0, 6)
    assert len(torch.cat([batch["uniforms"] for batch in got]).unique(dim=0)) == 24


def test_shards_for_several_processes(config: TrainConfig) -> None:
    listed = list_shards(Path(config.data.root), "train", None)
    with pytest.raises(DataError, match=r"4 shard.*5 processes"):
        Shards(listed, rank=0, world_size=5, workers=1)
    assert "evenly among 3 processes" in Shards(listed, rank=0, world_size=3, workers=1).notes[0]
    shares = [Shards(listed, rank=rank, world_size=2, workers=1) for rank in (0, 1)]
    numbers = [{item.number for item in share.read(0, 0, 0)} for share in shares]
    assert [len(share) for share in numbers] == [12, 12]
    assert numbers[0].isdisjoint(numbers[1])


SPLIT = {"filenames": ["a.tar"], "shard_lengths": [12], "num_samples": 12}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "it is not an object"),
        ("\0", "cannot read"),
        ("[" * 100_000, "nested too deeply"),
        ('{"splits": []}', "no object 'splits'"),
        ("{}", "no object 'splits'"),
        ('{"splits": {"val": {}}}', "no split 'train', only: val"),
        ('{"splits": {"train": {}}}', "'filenames' must list its shards"),
        ('{"splits": {"train": null}}', "must be an object, not None"),
        ({"filenames": [5, None]}, "'filenames' must be a list of str"),
        ({"filenames": "x"}, "'filenames' must be a list of str"),
        ({"shard_lengths": 5}, "'shard_lengths' must be a list of int"),
        ({"shard_lengths": [6, 6]}, "number of images of each shard"),
        ({"shard_lengths": [-12]}, "number of images of each shard"),
        ({"num_samples": 1e30}, "'num_samples' must be a number of images"),
        ({"num_samples": 10**30}, "'num_samples' must be a number of images"),
        ({"num_samples": "48"}, "'num_samples' must be a number of images"),
        ({"num_samples": 48}, "'num_samples' is 48, but its 'shard_lengths' add up to 12"),
        ({"num_samples": 0, "shard_lengths": []}, "--data.samples N"),
        ({"filenames": ["../a.tar"]}, "outside the dataset's folder"),
        ({"filenames": ["/etc/a.tar"]}, "outside the dataset's folder"),
    ],
)
def test_lists_from_strangers(tmp_path: Path, text: Any, message: str) -> None:
    if isinstance(text, dict):
        text = json.dumps({"splits": {"train": {**SPLIT, **text}}})
    (tmp_path / "_info.json").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        list_shards(tmp_path, "train", None)


def test_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no _info\.json"):
        list_shards(tmp_path, "train", None)
    pattern = "a-{0..2}.tar"
    with pytest.raises(DataError, match=r"--data\.samples N"):
        list_shards(tmp_path, pattern, None)
    listed = list_shards(tmp_path, pattern, 30)
    assert [file.name for file in listed.files] == ["a-0.tar", "a-1.tar", "a-2.tar"]
    assert (listed.lengths, listed.images) == ((), 30)
    write_info(tmp_path, filenames=[f"a-{n}.tar" for n in range(5)], shard_lengths=[1, 2, 3, 4, 5])
    listed = list_shards(tmp_path, pattern, None)
    assert (listed.lengths, listed.images) == ((1, 2, 3), 6)
    assert list_shards(tmp_path, "train", None).images == 15
