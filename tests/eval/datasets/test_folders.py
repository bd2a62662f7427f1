import random

import pytest
import torch

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.datasets import folders, open_data, split_rules


def fill(root, save, layout):
    """Write `{"train/cat": 3}`: so many images in each folder."""
    for folder, count in layout.items():
        for number in range(count):
            save(root / folder / f"{number:03d}.png")


def test_folder_holds_out_a_tenth_of_every_class(tmp_path, save_image):
    layout = {"train/a": 20, "train/b": 7, "train/c": 3, "train/d": 5, "test/b": 2}
    fill(tmp_path, save_image, layout)
    data = open_data("folder", tmp_path)
    (task,) = data.tasks_of("classification")
    counts = {
        split: task.targets[rows].bincount(minlength=4) for split, rows in task.splits.items()
    }
    assert counts["val"].tolist() == [2, 1, 0, 1]
    assert counts["train"].tolist() == [18, 6, 3, 4]
    assert counts["test"].tolist() == [0, 2, 0, 0]
    assert data.name == f"folder:{tmp_path.name}"
    assert "smallest sha256" in data.notes["splits"]
    for split, rows in task.splits.items():
        for row in rows.tolist():
            part, name, _ = data.names[row].split("/")
            assert name == task.classes[task.targets[row]]
            assert part == ("test" if split == "test" else "train")


def test_held_out_images_do_not_depend_on_order():
    keys = [f"{i}.png" for i in range(60)]
    labels = [i % 2 for i in range(60)]
    expected = {keys[i] for i in split_rules.hold_out(labels, keys)["val"].tolist()}
    order = list(range(60))
    random.Random(1).shuffle(order)
    found = split_rules.hold_out([labels[i] for i in order], [keys[i] for i in order])
    assert {keys[order[i]] for i in found["val"].tolist()} == expected
    assert len(expected) == 6


def test_hash_is_of_contents_names_and_labels(tmp_path, save_image):
    fill(tmp_path, save_image, {"train/a": 5, "train/b": 5, "test/a": 2, "test/b": 2})
    before = open_data("folder", tmp_path).sha256
    assert open_data("folder", tmp_path).sha256 == before
    first, second = (tmp_path / "train" / "a" / f"00{i}.png" for i in (0, 1))
    content = first.read_bytes()
    assert content != second.read_bytes()
    first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert open_data("folder", tmp_path).sha256 != before
    first.write_bytes(content)
    assert open_data("folder", tmp_path).sha256 == before
    first.rename(first.with_stem("moved"))
    assert open_data("folder", tmp_path).sha256 != before


@pytest.mark.parametrize("name", ["val", "valid"])
def test_folder_with_its_own_validation_images(name, tmp_path, save_image):
    layout = {"train/a": 2, "train/b": 2, f"{name}/a": 1, "test/a": 1, "test/b": 3}
    fill(tmp_path, save_image, layout)
    (task,) = open_data("folder", tmp_path).tasks_of("classification")
    assert [len(task.splits[s]) for s in ("train", "val", "test")] == [4, 1, 4]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"test/a": 1}, "train must hold a folder of images per class"),
        ({"train/a": 9}, "test must hold a folder"),
        ({"train/a": 9, "test/b": 1}, "classes that are not in train: b"),
        ({"train/a": 3, "test/a": 1}, "fewer than five"),
        ({"train/a": 9, "test/a": 1, "val/a": 1, "dev/a": 1}, "dev and val; use only one"),
        ({"train/a": 9, "train/b": 0, "test/a": 1}, "no images of the classes b"),
    ],
)
def test_folder_that_cannot_be_used(layout, message, tmp_path, save_image):
    fill(tmp_path, save_image, layout)
    (tmp_path / "train" / "b").mkdir(parents=True) if layout.get("train/b") == 0 else None
    with pytest.raises(DataError, match=message):
        open_data("folder", tmp_path)


def test_nothing_is_downloaded(tmp_path):
    for name in ("folder", "mit67", "cub200", "imagenet100", "fc100", "lspose", "300w"):
        with pytest.raises(ConfigError, match="cannot be downloaded"):
            open_data(name, tmp_path, download=True)


def test_imagenet100_takes_the_listed_classes_in_their_order(tmp_path, save_image, monkeypatch):
    monkeypatch.setattr(folders, "imagenet100_classes", lambda: ("n02", "n01"))
    layout = {f"train/{c}": 10 for c in ("n01", "n02", "n03")} | {"val/n01": 1, "val/n02": 2}
    fill(tmp_path, save_image, layout)
    data = open_data("imagenet100", tmp_path)
    (task,) = data.tasks_of("classification")
    assert task.classes == ("n02", "n01")
    assert [len(task.splits[s]) for s in ("train", "val", "test")] == [18, 2, 3]
    for name, label in zip(data.names, task.targets.tolist(), strict=True):
        assert name.split("/")[1] == task.classes[label]
    generator = torch.Generator().manual_seed(42)
    expected = torch.utils.data.random_split(range(20), [18, 2], generator=generator)[1].indices
    assert task.splits["val"].tolist() == list(expected)
    assert data.name == "imagenet100 (modified)"
    monkeypatch.setattr(folders, "imagenet100_classes", lambda: ("n01", "n03"))
    with pytest.raises(DataError, match="val has no folders of the classes n03"):
        open_data("imagenet100", tmp_path)


def test_imagenet100_has_100_classes():
    classes = split_rules.imagenet100_classes()
    assert len(set(classes)) == 100
    assert all(len(name) == 9 and name[0] == "n" for name in classes)


def test_few_shot_pools(tmp_path, save_image):
    fill(tmp_path, save_image, {"train/a": 2, "test/c": 2, "test/d": 3})
    fc100, plants = open_data("fc100", tmp_path), open_data("plant_disease", tmp_path)
    assert fc100.tasks[0].classes == ("c", "d")
    assert [len(fc100.tasks[0].splits[s]) for s in ("train", "val", "test")] == [0, 0, 5]
    assert plants.tasks[0].classes == ("a",)


def test_mit67_as_folders_and_as_published(tmp_path, save_image):
    split = tmp_path / "split"
    fill(split, save_image, {"train/bar": 8, "train/attic": 8, "test/bar": 2, "test/attic": 2})
    published = tmp_path / "published"
    write_mit67(published, save_image)
    tasks = [open_data("mit67", root).tasks[0] for root in (split, published)]
    for task in tasks:
        assert task.classes == ("attic", "bar")
        assert [len(task.splits[s]) for s in ("train", "val", "test")] == [14, 2, 4]
    assert torch.equal(tasks[0].targets, tasks[1].targets)
    assert torch.equal(tasks[0].splits["val"], tasks[1].splits["val"])
    with pytest.raises(DataError, match=r"TrainImages.txt"):
        open_data("mit67", tmp_path)


def write_mit67(root, save):
    fill(root, save, {"Images/bar": 10, "Images/attic": 10})
    train = [f"{c}/{i:03d}.png" for i in range(8) for c in ("bar", "attic")]
    test = [f"{c}/{i:03d}.png" for i in (8, 9) for c in ("bar", "attic")]
    (root / "TrainImages.txt").write_text("\n".join(train))
    (root / "TestImages.txt").write_text("\n".join(test))


def write_cub200(root, save):
    files = [f"{c}/{c[4:]}_{i:04d}.jpg" for c in ("001.Auk", "002.Tern") for i in range(6)]
    for file in files:
        save(root / "images" / file)
    numbered = list(enumerate(files, 1))
    (root / "images.txt").write_text("".join(f"{i} {file}\n" for i, file in numbered))
    (root / "train_test_split.txt").write_text(
        "".join(f"{i} {int(i % 3 > 0)}\n" for i, _ in numbered)
    )


def test_cub200_as_published(tmp_path, save_image, monkeypatch):
    write_cub200(tmp_path, save_image)
    with pytest.raises(DataError, match=r"8 training images; .* for 5,990"):
        open_data("cub200", tmp_path)
    monkeypatch.setattr(folders, "_CUB200_SIZES", (7, 8))
    monkeypatch.setattr(
        folders, "index_lists", lambda name: {"train": (0, 2, 3, 5, 6), "val": (1, 4)}
    )
    data = open_data("cub200", tmp_path)
    (task,) = data.tasks_of("classification")
    assert task.splits["train"].tolist() == [0, 2, 3, 5, 6, 7]
    assert task.splits["val"].tolist() == [1, 4]
    assert task.splits["test"].tolist() == [8, 9, 10, 11]
    assert task.targets.tolist() == [0] * 4 + [1] * 4 + [0] * 2 + [1] * 2
    assert data.names[0] == "images/001.Auk/Auk_0000.jpg"
    assert data.images[0][0].size == (8, 6)


def write_sun397(root, save):
    classes = ("a/abbey", "a/apartment_building/outdoor", "b/bar")
    (root / "SUN397").mkdir(parents=True)
    (root / "SUN397" / "ClassName.txt").write_text("".join(f"/{c}\n" for c in classes))
    for part, numbers in (("Training", (3, 1, 2)), ("Testing", (4,))):
        lines = [f"/{c}/sun_{i}.jpg" for c in classes for i in numbers]
        (root / f"{part}_01.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            save(root / "SUN397" / line[1:])


@pytest.mark.parametrize(("line", "message"), [("3", "line 3: expected a key"), ("3 2", "0 or 1")])
def test_damaged_cub200(line, message, tmp_path, save_image):
    write_cub200(tmp_path, save_image)
    path = tmp_path / "train_test_split.txt"
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        open_data("cub200", tmp_path)


def test_sun397_keeps_the_order_of_its_lists(tmp_path, save_image, monkeypatch):
    write_sun397(tmp_path, save_image)
    with pytest.raises(DataError, match=r"9 lines; .* for 19,850"):
        open_data("sun397", tmp_path)
    lists = {"train": (0, 2, 3, 4, 6, 8), "val": (1, 5, 7)}
    monkeypatch.setattr(folders, "index_lists", lambda name: lists)
    data = open_data("sun397", tmp_path)
    (task,) = data.tasks_of("classification")
    assert data.names[:2] == ("a/abbey/sun_3.jpg", "a/abbey/sun_1.jpg")
    assert task.targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 1, 2]
    assert task.splits["val"].tolist() == [1, 5, 7]
    assert task.splits["test"].tolist() == [9, 10, 11]
    assert data.images[3][0].size == (8, 6)
    (tmp_path / "Testing_01.txt").write_text("/z/zoo/sun_1.jpg\n")
    with pytest.raises(DataError, match=r"not in ClassName\.txt: z/zoo"):
        open_data("sun397", tmp_path)
    (tmp_path / "Training_01.txt").unlink()
    with pytest.raises(DataError, match=r"expected in .*ClassName.txt"):
        open_data("sun397", tmp_path)


HELD_OUT = {"train/b": 20, "train/B": 7, "train/a b": 10, "train/a": 10, "test/a": 2, "test/b": 2}
NESTED = {f"{part}/{c}/{sub}": 6 for part in ("train", "test") for c in "ab" for sub in ("x", "y")}
OWN_VAL = {"train/a": 2, "train/b": 2, "dev/a": 1, "test/b": 3}
IMAGENET = {f"train/{c}": 10 for c in ("n01", "n02", "n03")} | {"val/n01": 1, "val/n02": 2}
RECORDED = [
    ("folder", HELD_OUT, "7b06681c299c30cc"),
    ("folder", NESTED, "4e6a48b49ef2e3f8"),
    ("folder", OWN_VAL, "88d1f86c5edefeee"),
    ("imagenet100", IMAGENET, "2aca89cc00c3b681"),
    ("fc100", {"test/c": 2, "test/d": 3}, "c61b945db1a34f17"),
    ("plant_disease", {"train/a": 2, "train/b": 3}, "52213fbb22db30d8"),
    (
        "mit67",
        {"train/bar": 8, "train/attic": 8, "test/bar": 2, "test/attic": 2},
        "f61e0f299a24d49f",
    ),
    ("mit67", write_mit67, "ca87cc54c03aa0b5"),
    ("cub200", write_cub200, "d8cdb1b2d7030bb0"),
    ("sun397", write_sun397, "045548fdb35be881"),
]


@pytest.mark.parametrize(("name", "layout", "expected"), RECORDED)
def test_recorded_datasets_stay_what_they_are(
    name, layout, expected, tmp_path, save_image, identity, monkeypatch
):
    """The values are of version 0.1.0: with others, recorded results would be of other data."""
    monkeypatch.setattr(folders, "imagenet100_classes", lambda: ("n02", "n01"))
    monkeypatch.setattr(folders, "_CUB200_SIZES", (7, 8))
    lists = {"cub200": {"val": (1, 4)}, "sun397": {"train": (0, 2, 3, 4, 6, 8), "val": (1, 5, 7)}}
    monkeypatch.setattr(folders, "index_lists", lists.get)
    root = tmp_path / "data"
    fill(root, save_image, layout) if isinstance(layout, dict) else layout(root, save_image)
    assert identity(open_data(name, root)) == expected
