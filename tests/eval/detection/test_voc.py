import pickle
from urllib.error import URLError

import pytest
import torch

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.datasets.voc import CLASSES

DOG, CAT = CLASSES.index("dog"), CLASSES.index("cat")


def test_images_splits_and_objects(voc_root):
    data = open_data("voc07+12", voc_root)
    (task,) = data.tasks_of("detection")
    assert len(data.images) == 16
    assert {split: rows.tolist() for split, rows in task.splits.items()} == {
        "train": list(range(12)),
        "test": list(range(12, 16)),
    }
    assert data.names[0] == "VOC2007/000000.jpg"
    assert data.names[8] == "VOC2012/2012_000012.jpg"
    assert data.notes["splits"] == "train: 2007 trainval + 2012 trainval; test: 2007 test (12, 4)"
    # Pixels are counted from 0, and a box ends behind its last pixel.
    assert task.targets.shape == (16, 3, 6)
    assert task.targets[1].tolist() == [
        [DOG, 8, 5, 32, 29, 0],
        [CAT, 34, 35, 54, 55, 0],
        [CAT, 0, 59, 4, 63, 1],
    ]
    assert task.targets[0, 2].tolist() == [-1] * 6
    image, _ = pickle.loads(pickle.dumps(data.images))[1]
    pixels = [image.getpixel(place) for place in ((8, 5), (31, 28), (7, 5), (32, 28))]
    assert [red > 190 for red, _, _ in pixels] == [True, True, False, False]


def test_the_hash_sees_images(voc_root):
    before = open_data("voc07+12", voc_root).sha256
    path = voc_root / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000000.jpg"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert open_data("voc07+12", voc_root).sha256 != before


def test_the_devkit_itself_is_taken_and_the_hash_sees_labels(voc_root):
    data = open_data("voc07+12", voc_root)
    same = open_data("voc07+12", voc_root / "VOCdevkit")
    assert same.sha256 == data.sha256
    assert torch.equal(same.tasks[0].targets, data.tasks[0].targets)
    path = voc_root / "VOCdevkit" / "VOC2007" / "Annotations" / "000000.xml"
    path.write_text(path.read_text().replace("dog", "cat"))
    assert open_data("voc07+12", voc_root).sha256 != data.sha256


@pytest.mark.parametrize(
    "name",
    ["ImageSets/Main/test.txt", "Annotations/000003.xml", "JPEGImages/000003.jpg"],
)
def test_missing_files_are_named(voc_root, name):
    (voc_root / "VOCdevkit" / "VOC2007" / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing.*--download"):
        open_data("voc07+12", voc_root)


def test_no_dataset(tmp_path):
    with pytest.raises(DataError, match=r"VOC2007.*is missing"):
        open_data("voc07+12", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>dog</name>", "<name>dragon</name>", "'dragon' is not a class"),
        ("<xmin>4</xmin>", "", "not an annotation of PASCAL VOC"),
        ("<xmax>27</xmax>", "<xmax>3</xmax>", "is empty"),
        ("</annotation>", "", "not an annotation of PASCAL VOC"),
    ],
)
def test_wrong_annotations(voc_root, old, new, message):
    path = voc_root / "VOCdevkit" / "VOC2007" / "Annotations" / "000000.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        open_data("voc07+12", voc_root)


def test_empty_list(voc_root):
    (voc_root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    with pytest.raises(DataError, match="trainval list of VOC2012 is empty"):
        open_data("voc07+12", voc_root)


def test_a_failed_download_is_told(tmp_path, monkeypatch):
    def fetch(*_args, **_settings):
        raise URLError("no network")

    monkeypatch.setattr("cassle_zoo.eval.datasets.voc.VOCDetection", fetch)
    with pytest.raises(DataError, match=r"voc07\+12 could not be downloaded into .*no network"):
        open_data("voc07+12", tmp_path, download=True)


def test_downloading_is_left_to_torchvision_and_only_when_asked(voc_root, monkeypatch):
    asked = []

    def fetch(root, **arguments):
        assert root == str(voc_root)
        asked.append(arguments)

    monkeypatch.setattr("cassle_zoo.eval.datasets.voc.VOCDetection", fetch)
    open_data("voc07+12", voc_root)
    assert not asked
    open_data("voc07+12", voc_root, download=True)
    assert asked == [
        {"year": year, "image_set": part, "download": True}
        for year, part in (("2007", "trainval"), ("2012", "trainval"), ("2007", "test"))
    ]


def test_recorded_datasets_stay_what_they_are(voc_root):
    for image in voc_root.rglob("*.jpg"):
        image.write_bytes(image.name.encode())  # with no encoder's versions in the hash
    assert open_data("voc07+12", voc_root).sha256[:16] == "50784375acaf09dc"
