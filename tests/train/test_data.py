import dataclasses
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from cassle_zoo.errors import DataError
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data import Sample, batches, open_dataset, steps_per_epoch
from cassle_zoo.train.guards import BadPictures


def with_data(config: TrainConfig, **changes: object) -> TrainConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def read(config: TrainConfig, first: int = 0, last: int = 10) -> list[Sample]:
    return list(batches(config, open_dataset(config.data), first, last))


def assert_same(left: list[Sample], right: list[Sample]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key])


def test_batches(config: TrainConfig) -> None:
    got = read(config)
    assert len(got) == 10
    assert got[0]["crops"].shape == (4, 2, 3, 32, 32)
    assert got[0]["crops"].dtype == torch.uint8
    assert got[0]["source"].tolist() == [[20, 28]] * 4
    assert not torch.equal(got[0]["crops"][:, 0], got[0]["crops"][:, 1])


def test_epochs_differ_and_cover_the_data(config: TrainConfig) -> None:
    from cassle_zoo.train.data import EpochBatches

    keys = list(EpochBatches(22, 4, 0, 0, 10))
    assert len({sample for batch in keys[:5] for _, sample in batch}) == 20
    assert [epoch for batch in keys for epoch, _ in batch] == [0] * 20 + [1] * 20
    assert keys[:5] != [[(0, s) for _, s in batch] for batch in keys[5:]]
    assert keys != list(EpochBatches(22, 4, 1, 0, 10))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_matter(config: TrainConfig, workers: int) -> None:
    assert_same(read(config), read(with_data(config, workers=workers)))


@pytest.mark.parametrize("first", [1, 5, 7])
def test_any_start_gives_the_same_rest(config: TrainConfig, first: int) -> None:
    assert_same(read(config)[first:], read(config, first))


def test_flat_folder_and_tar(config: TrainConfig, pictures: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted(pictures.rglob("*.png")):
        shutil.copy(path, flat)
    with tarfile.open(tmp_path / "flat.tar", "w") as tar:
        tar.add(pictures, ".")
    for root in (flat, tmp_path / "flat.tar"):
        assert read(with_data(config, root=str(root)), 0, 1)[0]["crops"].shape[0] == 4


def test_bad_picture_is_replaced_and_reported(
    config: TrainConfig, pictures: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pictures, copy)
    victim = copy / "class1" / "07.png"
    victim.write_bytes(victim.read_bytes()[:200])
    config = with_data(config, root=str(copy))
    bad = torch.cat([batch["bad"] for batch in read(config, 0, 10)])
    assert len(set(bad[bad >= 0].tolist())) == 1
    guard = BadPictures(open_dataset(config.data), max_share=0.05)
    assert guard.note(bad) == [repr(str(Path("class1") / "07.png"))]
    assert guard.note(bad) == []
    with pytest.raises(DataError, match=r"07\.png.*max-bad-share"):
        BadPictures(open_dataset(config.data), max_share=0.01).note(bad)


def test_all_pictures_bad(config: TrainConfig, tmp_path: Path) -> None:
    for index in range(22):
        (tmp_path / f"{index}.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="one after the other"):
        read(with_data(config, root=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": ""}, "--data PATH"),
        ({"root": "does/not/exist"}, "does/not/exist"),
        ({"dataset": "emoji64", "root": "does/not/exist"}, "does/not/exist"),
    ],
)
def test_missing_data(config: TrainConfig, changes: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(with_data(config, **changes).data)


def test_folder_without_pictures(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no pictures here")
    with pytest.raises(DataError, match="cannot open"):
        open_dataset(with_data(config, root=str(tmp_path)).data)


def test_fewer_pictures_than_a_batch() -> None:
    with pytest.raises(DataError, match=r"--optim\.batch-size 22 or less"):
        steps_per_epoch(range(22), 23)
    assert steps_per_epoch(range(22), 22) == 1


def test_webdataset_stream(config: TrainConfig, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "train-000.tar", "w") as tar:
        for index, path in enumerate(sorted(pictures.rglob("*.png"))):
            tar.add(path, f"{index:06d}.png")
            label = tmp_path / "label.cls"
            label.write_text(str(index % 2))
            tar.add(label, f"{index:06d}.cls")
    (tmp_path / "_info.json").write_text(
        '{"splits": {"train": {"name": "train", "num_samples": 22,'
        ' "filenames": ["train-000.tar"], "shard_lengths": [22]}}}'
    )
    config = with_data(config, dataset="wds/pictures", root=str(tmp_path), workers=1)
    everything = read(config)
    assert len(everything) == 10
    assert_same(everything[7:], read(config, 7))
