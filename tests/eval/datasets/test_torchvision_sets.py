import json
import pickle

import numpy as np
import pytest
import torch
from scipy.io import savemat

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.eval.datasets import open_data, split_rules, torchvision_sets

CLASSES = ("alpha", "beta")


def write_cifar(root, folder, files, labels_key, meta, names_key):
    (root / folder).mkdir()
    for number, name in enumerate(files):
        pixels = np.random.RandomState(number).randint(0, 256, (20, 3072), dtype=np.uint8)
        entry = {"data": pixels, labels_key: [i % 2 for i in range(20)]}
        (root / folder / name).write_bytes(pickle.dumps(entry))
    (root / folder / meta).write_bytes(pickle.dumps({names_key: list(CLASSES)}))


def write_cifar10(root, save):
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    write_cifar(root, "cifar-10-batches-py", files, "labels", "batches.meta", "label_names")


def write_cifar100(root, save):
    files = ["train", "test"]
    write_cifar(root, "cifar-100-python", files, "fine_labels", "meta", "fine_label_names")


def write_stl10(root, save):
    base = root / "stl10_binary"
    base.mkdir()
    for part, count in (("train", 20), ("test", 4)):
        pixels = np.random.RandomState(count).randint(0, 256, (count, 27648), dtype=np.uint8)
        pixels.tofile(base / f"{part}_X.bin")
        np.array([i % 2 + 1 for i in range(count)], dtype=np.uint8).tofile(base / f"{part}_y.bin")
    (base / "class_names.txt").write_text("\n".join(CLASSES))


def write_food101(root, save):
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for part, numbers in (("train", range(10)), ("test", range(10, 13))):
        listing = {name: [f"{name}/{i}" for i in numbers] for name in CLASSES}
        (base / "meta" / f"{part}.json").write_text(json.dumps(listing))
        for file in [*listing["alpha"], *listing["beta"]]:
            save(base / "images" / f"{file}.jpg")


def write_pets(root, save):
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for part, numbers in (("trainval", range(1, 11)), ("test", range(11, 14))):
        lines = [
            f"{name}_{i} {label} 1 1" for label, name in enumerate(CLASSES, 1) for i in numbers
        ]
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            save(base / "images" / f"{line.split()[0]}.jpg")


def write_flowers(root, save):
    base = root / "flowers-102"
    base.mkdir()
    savemat(base / "imagelabels.mat", {"labels": [[1, 2] * 6]})
    sets = {"trnid": [[1, 2, 3, 4]], "valid": [[5, 6, 7, 8]], "tstid": [[9, 10, 11, 12]]}
    savemat(base / "setid.mat", sets)
    for number in range(1, 13):
        save(base / "jpg" / f"image_{number:05d}.jpg")


def write_caltech101(root, save):
    for name in (*CLASSES, "BACKGROUND_Google"):
        for number in range(1, 7):
            folder = root / "caltech101" / "101_ObjectCategories" / name
            save(folder / f"image_{number:04d}.jpg")


def write_cars(root, save):
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = np.array(CLASSES, dtype=object)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    dtype = [(name, object) for name in fields]
    for part, count, file in (
        ("train", 20, "devkit/cars_train_annos.mat"),
        ("test", 4, "cars_test_annos_withlabels.mat"),
    ):
        rows = [(1, 1, 5, 5, i % 2 + 1, f"{i:05d}.jpg") for i in range(1, count + 1)]
        savemat(base / file, {"annotations": np.array(rows, dtype=dtype)})
        for row in rows:
            save(base / f"cars_{part}" / row[-1])


def write_aircraft(root, save):
    base = root / "fgvc-aircraft-2013b" / "data"
    base.mkdir(parents=True)
    (base / "variants.txt").write_text("alpha 1\nbeta 2\n")
    for start, part in ((0, "train"), (4, "val"), (8, "test")):
        numbers = range(start, start + 4)
        lines = [f"{i:07d} {('alpha 1', 'beta 2')[i % 2]}" for i in numbers]
        (base / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
        for i in numbers:
            save(base / "images" / f"{i:07d}.jpg")


def write_dtd(root, save):
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for start, part in ((0, "train"), (4, "val"), (8, "test")):
        files = [f"{CLASSES[i % 2]}/{CLASSES[i % 2]}_{i:04d}.jpg" for i in range(start, start + 4)]
        (base / "labels" / f"{part}1.txt").write_text("\n".join(files) + "\n")
        for file in files:
            save(base / "images" / file)


WRITERS = {
    "cifar10": (write_cifar10, (90, 10, 20), "a1246b53bb7a626f"),
    "cifar100": (write_cifar100, (18, 2, 20), "356a984c6aa42a63"),
    "stl10": (write_stl10, (18, 2, 4), "8e76bcbbf364d8de"),
    "food101": (write_food101, (18, 2, 6), "e7b4613bc7b31e4c"),
    "pets": (write_pets, (16, 4, 6), "ac7d9d92a06a0edf"),
    "flowers": (write_flowers, (4, 4, 4), "bed8213afaa750cd"),
    "caltech101": (write_caltech101, (4, 2, 6), "95aa4fdd7f0e4654"),
    "cars": (write_cars, (17, 3, 4), "3fa2b84aaff34d57"),
    "aircraft": (write_aircraft, (4, 4, 4), "f52257b5ac6fc7c7"),
    "dtd": (write_dtd, (4, 4, 4), "dc71ccc21761358c"),
}
MEAN_PER_CLASS = {"pets", "flowers", "caltech101", "aircraft"}


@pytest.fixture
def tiny_caltech_lists(monkeypatch):
    lists = {"train": (3, 0, 8, 6), "val": (1, 7), "test": (2, 4, 5, 9, 10, 11)}
    monkeypatch.setattr(torchvision_sets, "index_lists", lambda name: lists)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.usefixtures("any_checksum", "tiny_caltech_lists")
def test_reads_the_published_layout(name, tmp_path, save_image, identity):
    write, sizes, recorded = WRITERS[name]
    write(tmp_path, save_image)
    data = open_data(name, tmp_path)
    assert identity(data) == recorded  # by version 0.1.0
    (task,) = data.tasks_of("classification")
    assert {key: len(rows) for key, rows in task.splits.items()} == dict(
        zip(("train", "val", "test"), sizes, strict=True)
    )
    rows = torch.cat(list(task.splits.values()))
    assert sorted(rows.tolist()) == list(range(len(data.images)))
    assert task.metric == ("mean_per_class" if name in MEAN_PER_CLASS else "top1")
    if name == "flowers":  # whose file has no names
        assert len(task.classes) == 102
    else:
        assert [c.lower().split()[0] for c in task.classes] == list(CLASSES)
    assert data.name == f"{name} (modified)"
    assert task.targets[task.splits["test"]].unique().tolist() == [0, 1]
    assert data.images[len(data.images) - 1][0].size in {(8, 6), (32, 32), (96, 96)}
    assert data.tasks == (task,)
    if data.names:
        for row, file in enumerate(data.names):
            assert (tmp_path / file).is_file()
            named = [c for c in CLASSES if c in file]
            assert not named or named[0] == CLASSES[int(task.targets[row])]
    assert open_data(name, tmp_path).sha256 == data.sha256


@pytest.mark.parametrize("name", torchvision_sets.TORCHVISION_SETS)
def test_says_what_is_missing(name, tmp_path):
    with pytest.raises(DataError, match=f"{name}: .* is missing"):
        open_data(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_random_split_is_torchs(tmp_path, save_image):
    write_food101(tmp_path, save_image)
    (task,) = open_data("food101", tmp_path).tasks_of("classification")
    generator = torch.Generator().manual_seed(42)
    train, val = torch.utils.data.random_split(range(20), [18, 2], generator=generator)
    assert task.splits["train"].tolist() == list(train.indices)
    assert task.splits["val"].tolist() == list(val.indices)


def test_labels_and_images_are_in_the_hash(tmp_path, save_image):
    write_pets(tmp_path, save_image)
    before = open_data("pets", tmp_path).sha256
    listing = tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt"
    original = listing.read_text()
    listing.write_text(original.replace("alpha_11 1", "alpha_11 2"))
    assert open_data("pets", tmp_path).sha256 != before
    listing.write_text(original)
    save_image(tmp_path / "oxford-iiit-pet" / "images" / "alpha_11.jpg", (40, 40))
    assert open_data("pets", tmp_path).sha256 != before


def test_missing_images_and_lists(tmp_path, save_image):
    write_dtd(tmp_path, save_image)
    (tmp_path / "dtd/dtd/images/beta/beta_0001.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 12 images .*beta_0001.jpg"):
        open_data("dtd", tmp_path)
    (tmp_path / "dtd/dtd/labels/val1.txt").unlink()
    with pytest.raises(DataError, match=r"dtd/dtd/labels/train1.txt.*val1.txt"):
        open_data("dtd", tmp_path)


def test_damaged_files(tmp_path, save_image):
    write_cars(tmp_path, save_image)
    meta = tmp_path / "stanford_cars" / "devkit" / "cars_meta.mat"
    for content in (b"", meta.read_bytes()[:150], b"<html>not found</html>" * 20):
        meta.write_bytes(content)
        with pytest.raises(DataError, match=r"cars: expected in .* But: "):
            open_data("cars", tmp_path)


def test_caltech_lists_need_the_published_number(tmp_path, save_image):
    write_caltech101(tmp_path, save_image)
    with pytest.raises(DataError, match=r"8,677 images.*\b12\b"):
        open_data("caltech101", tmp_path)


def test_cars_cannot_be_downloaded(tmp_path):
    with pytest.raises(ConfigError, match="not offered for download"):
        open_data("cars", tmp_path, download=True)


def test_matlab_files_need_scipy(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"cassle-zoo\[mat\]"):
        open_data("flowers", tmp_path)


def test_download_is_asked_for_only_on_request(tmp_path, monkeypatch):
    asked = []

    class Reader(torchvision_sets.datasets.DTD):
        def _download(self):
            asked.append(self.root)
            raise OSError("no network")

    recipe = torchvision_sets._RECIPES["dtd"]
    changed = {"dtd": torchvision_sets.dataclasses.replace(recipe, reader=Reader)}
    monkeypatch.setattr(torchvision_sets, "_RECIPES", changed)
    with pytest.raises(DataError, match="is missing"):
        open_data("dtd", tmp_path)
    assert asked == []
    with pytest.raises(DataError, match="no network"):
        open_data("dtd", tmp_path, download=True)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("name", "sizes", "total"),
    [
        ("caltech101", {"train": 2525, "val": 505, "test": 5647}, 8677),
        ("cub200", {"train": 4990, "val": 1000}, 5990),
        ("sun397", {"train": 15880, "val": 3970}, 19850),
    ],
)
def test_official_index_lists_are_partitions(name, sizes, total):
    lists = split_rules.index_lists(name)
    assert {split: len(own) for split, own in lists.items()} == sizes
    assert sorted(index for own in lists.values() for index in own) == list(range(total))


@pytest.mark.parametrize(
    ("train", "val", "seed", "first_train", "first_val"),
    [(45000, 5000, 43, 5588, 22846), (2940, 740, 49, 3050, 622)],
)
def test_random_split_of_the_published_size(train, val, seed, first_train, first_val):
    sizes = {"trainval": train + val, "test": 0}
    splits, _ = split_rules.split_trainval(sizes, train + val, val, seed)
    assert (len(splits["train"]), len(splits["val"])) == (train, val)
    assert (int(splits["train"][0]), int(splits["val"][0])) == (first_train, first_val)
