import pytest
import torch

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.feature_cache import features_of
from cassle_zoo.features.extract import FeatureSet

datasets = pytest.importorskip("datasets")


def make_split(save, folder, count, labels=()):
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for path in paths:
        save(path)
    features = datasets.Features(
        {"image": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [str(path) for path in paths], "kind": labels or [i % 2 for i in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features)


def save_to_disk(root, save, **counts):
    parts = {name: make_split(save, root / name, count) for name, count in counts.items()}
    datasets.DatasetDict(parts).save_to_disk(str(root / "disk"))
    return root / "disk"


def test_saved_to_disk(tmp_path, save_image):
    path = save_to_disk(tmp_path, save_image, test=4, train=20)
    data = open_data("hf", path)
    (task,) = data.tasks_of("classification")
    assert (task.name, task.classes) == ("kind", ("cat", "dog"))
    assert [len(task.splits[s]) for s in ("train", "val", "test")] == [18, 2, 4]
    assert task.targets.tolist() == [0, 1] * 12
    assert data.images[23][0].size == (8, 6)
    with pytest.raises(IndexError):
        data.images[24]
    assert open_data("hf", path).sha256 == data.sha256
    assert data.name == "hf:disk"


def test_recorded_datasets_stay_what_they_are(tmp_path, save_image, identity):
    path = save_to_disk(tmp_path, save_image, test=4, train=20)
    assert identity(open_data("hf", path)) == "79db78cafdb325ef"


def test_classes_without_images_are_left_out(tmp_path, save_image):
    kind = datasets.ClassLabel(names=["bird", "cat", "cow", "dog"])
    parts = {
        name: make_split(save_image, tmp_path / name, 4)
        .cast_column("kind", datasets.Value("int64"))
        .map(lambda row: {"kind": 2 * row["kind"] + 1})
        .cast_column("kind", kind)
        for name in ("train", "val", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "filtered"))
    (task,) = open_data("hf", tmp_path / "filtered").tasks_of("classification")
    assert task.classes == ("cat", "dog")
    assert task.targets.tolist() == [0, 1] * 6


def test_own_validation_split(tmp_path, save_image):
    path = save_to_disk(tmp_path, save_image, train=4, validation=2, test=2, hard=1)
    with pytest.warns(UserWarning, match=r"splits of .* are left out: hard\."):
        (task,) = open_data("hf", path).tasks_of("classification")
    assert [len(task.splits[s]) for s in ("train", "val", "test")] == [4, 2, 2]


def save_folder(folder, save_image):
    for part, count in (("train", 12), ("test", 3)):
        for number in range(count):
            for name in ("cat", "dog"):
                save_image(folder / part / name / f"{number:03d}.png")


def test_folder_of_images(tmp_path, save_image):
    save_folder(tmp_path, save_image)
    data = open_data("hf", tmp_path)
    (task,) = data.tasks_of("classification")
    assert task.classes == ("cat", "dog")
    assert [len(task.splits[s]) for s in ("train", "val", "test")] == [22, 2, 6]
    assert data.images[0][0].size == (8, 6)


def test_features_of_a_folder_find_their_images_by_name(tmp_path, save_image):
    save_folder(tmp_path, save_image)
    data = open_data("hf", tmp_path)
    (task,) = data.tasks_of("classification")
    kinds = [task.classes[label] for label in task.targets.tolist()]
    assert [name.split("/")[1] for name in data.names] == kinds
    test = {data.names[row].split("/")[0] for row in task.splits["test"].tolist()}
    assert test == {"test"}
    # As `cassle-zoo features` lists them: test before train.
    sources = sorted(str(path) for path in tmp_path.glob("*/*/*.png"))
    known = FeatureSet(features=torch.arange(30.0)[:, None], sources=sources)
    found, _ = features_of(known, data.names, len(data.images), data.root)
    places = [sources[int(row)] for row in found[:, 0]]
    assert places == [str(tmp_path / name) for name in data.names]


def test_what_cannot_be_used(tmp_path, save_image):
    with pytest.raises(DataError, match="not a folder"):
        open_data("hf", tmp_path / "nothing")
    with pytest.raises(DataError, match="expected train, test"):
        open_data("hf", save_to_disk(tmp_path, save_image, train=4))
    single = make_split(save_image, tmp_path / "single", 4)
    single.save_to_disk(str(tmp_path / "one"))
    with pytest.raises(DataError, match="single split"):
        open_data("hf", tmp_path / "one")
    hidden = make_split(save_image, tmp_path / "hidden", 3, [None, -1, 0])
    datasets.DatasetDict({"train": single, "test": hidden}).save_to_disk(str(tmp_path / "hid"))
    with pytest.raises(DataError, match="2 of 7 images have no label"):
        open_data("hf", tmp_path / "hid")
    bare = datasets.DatasetDict({"train": single.remove_columns("kind"), "test": single})
    bare.save_to_disk(str(tmp_path / "bare"))
    with pytest.raises(DataError, match="one column of type ClassLabel, found none"):
        open_data("hf", tmp_path / "bare")


def test_whatever_datasets_raises_is_said(tmp_path, monkeypatch):
    def fail(*_args, **_settings):
        raise RuntimeError("An error occurred") from ValueError("a row is wrong")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"datasets cannot read .*: a row is wrong$"):
        open_data("hf", tmp_path)
