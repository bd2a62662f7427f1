"""Folders that `datasets` wrote with `save_to_disk`."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
from builders import encoded, make_image

from cassle_zoo.common.errors import DataError, UnknownNameError
from cassle_zoo.common.images import UnreadableImageError
from cassle_zoo.train import loop
from cassle_zoo.train.config import DataConfig, TrainConfig
from cassle_zoo.train.data.datasets import open_dataset

datasets = pytest.importorskip("datasets")


def rows(count: int, **columns: Any) -> Any:
    """A dataset of encoded images, and other columns."""
    images = [{"bytes": encoded(make_image(i, (24, 20))), "path": None} for i in range(count)]
    made = datasets.Dataset.from_dict({"image": images, **columns})
    return made.cast_column("image", datasets.Image())


def saved(folder: Path, made: Any) -> str:
    made.save_to_disk(str(folder))
    return str(folder)


def labelled(count: int) -> Any:
    made = rows(count, kind=[i % 2 for i in range(count)])
    return made.cast_column("kind", datasets.ClassLabel(names=["cat", "dog"]))


@pytest.mark.parametrize("dataset", ["", "hfds/"])
def test_it_is_trained_on(config: TrainConfig, tmp_path: Path, dataset: str) -> None:
    root = saved(tmp_path / "data", datasets.DatasetDict(train=labelled(12), test=labelled(3)))
    data = DataConfig(root=root, dataset=dataset, workers=0)
    assert loop.train(dataclasses.replace(config, data=data), tmp_path / "run").finished
    opened = open_dataset(data)
    assert [opened[i][1] for i in range(4)] == [0, 1, 0, 1]
    assert opened[5][0].tobytes() == make_image(5, (24, 20)).tobytes()
    assert pickle.loads(pickle.dumps(opened))[5] == opened[5]


def test_splits(tmp_path: Path) -> None:
    root = saved(tmp_path / "two", datasets.DatasetDict(a=rows(4), b=rows(3)))
    assert len(open_dataset(DataConfig(root=root, split="b"))) == 3
    assert len(open_dataset(DataConfig(root=root, split=""))) == 7
    with pytest.raises(DataError, match=r"no split 'train', but 'a', 'b'; .*--data\.split"):
        open_dataset(DataConfig(root=root))
    one = saved(tmp_path / "one", rows(4))
    opened = open_dataset(DataConfig(root=one))
    assert [opened[index][1] for index in range(4)] == [-1] * 4
    with pytest.raises(DataError, match=r"one split without a name; leave out --data\.split"):
        open_dataset(DataConfig(root=one, split="b"))


def test_the_column_is_found_or_named(tmp_path: Path) -> None:
    files = [encoded(make_image(i, (24, 20))) for i in range(3)]
    made = rows(3, number=[1, 2, 3], file=files)
    root = saved(tmp_path / "more", made)
    image, _ = open_dataset(DataConfig(root=root, image_column="file"))[1]
    assert image.tobytes() == make_image(1, (24, 20)).tobytes()
    with pytest.raises(UnknownNameError, match=r"image_column 'imgae'\. Did you mean 'image'"):
        open_dataset(DataConfig(root=root, image_column="imgae"))
    with pytest.raises(DataError, match="column 'number' does not hold images"):
        open_dataset(DataConfig(root=root, image_column="number"))
    two = made.cast_column("file", datasets.Image())
    assert len(open_dataset(DataConfig(root=saved(tmp_path / "two", two)))) == 3
    without = saved(tmp_path / "without", made.remove_columns("image"))
    with pytest.raises(DataError, match=r"no columns of type Image among number, file; pass one"):
        open_dataset(DataConfig(root=without))


def test_a_dataset_of_the_hub_needs_no_labels_and_no_certain_column(
    config: TrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "hub").mkdir()
    made = rows(12, text=["a caption"] * 12, mask=[encoded(make_image())] * 12)
    made = made.cast_column("mask", datasets.Image()).rename_column("image", "img")
    made.to_parquet(tmp_path / "hub" / "train.parquet")
    data = DataConfig(root=str(tmp_path / "cache"), dataset=f"hfds/{tmp_path}/hub", workers=0)
    with pytest.raises(DataError, match=r"2 columns of type Image .*--data\.image-column"):
        open_dataset(data)
    data = dataclasses.replace(data, image_column="img")
    assert loop.train(dataclasses.replace(config, data=data), tmp_path / "run").finished
    image, label = open_dataset(data)[5]
    assert image.tobytes() == make_image(5, (24, 20)).tobytes()
    assert label == -1
    with pytest.raises(DataError, match=r"cannot open dataset 'hfds/.*test"):
        open_dataset(dataclasses.replace(data, split="test"))


def test_rows_without_an_image_are_bad_images(tmp_path: Path) -> None:
    images = [{"bytes": b"no image", "path": None}, None]
    made = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    opened = open_dataset(DataConfig(root=saved(tmp_path / "bad", made)))
    for index in range(2):
        with pytest.raises(UnreadableImageError):
            opened[index]


def test_what_is_no_saved_folder(images: Path) -> None:
    with pytest.raises(DataError, match="was not written by `save_to_disk`"):
        open_dataset(DataConfig(root=str(images), dataset="hfds/"))
    with pytest.raises(DataError, match=r"--data\.image-column 'x' is for folders written by"):
        open_dataset(DataConfig(root=str(images), image_column="x"))


def test_a_damaged_folder(tmp_path: Path) -> None:
    root = saved(tmp_path / "data", rows(4))
    next(Path(root).glob("*.arrow")).write_bytes(b"damaged")
    with pytest.raises(DataError, match="datasets cannot read"):
        open_dataset(DataConfig(root=root))
