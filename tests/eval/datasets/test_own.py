"""The user's own images in every layout, with the exact images of each split."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.images import image_endings
from cassle_zoo.eval.base import Compute, EvalData
from cassle_zoo.eval.datasets import near_duplicates, open_data
from cassle_zoo.eval.datasets.split_rules import SplitConfig, split_by_class
from cassle_zoo.eval.protocols.sensitivity import Sensitivity
from cassle_zoo.eval.protocols.spectrum import Spectrum
from cassle_zoo.eval.protocols.view_retrieval import ViewRetrieval
from cassle_zoo.eval.runner import evaluate

SPLITS = ("train", "val", "test")


def random_waves(seed: int, side: int = 48) -> Image.Image:
    """Waves of random colours: different seeds are not alike, and resizing changes little."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    # Sums and products only, so that the pixels are the same on every machine.
    waves = [
        (a * x + b * y + c * (x - 0.5) * (y - 0.5)) % 2
        for a, b, c in rng.integers(-3, 4, (3, 3)).tolist()
    ]
    pixels = np.stack([np.minimum(wave, 2 - wave) for wave in waves], axis=-1)
    return Image.fromarray(np.round(240 * pixels).astype(np.uint8))


def save(path: Path, seed: int, side: int = 48) -> None:
    """Write an image without an encoder whose version could change its bytes: a PPM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = random_waves(seed, side)
    path.write_bytes(b"P6 %d %d 255\n" % image.size + image.tobytes())


def fill(root: Path, layout: dict[str, int]) -> Path:
    """Write `{"cat": 3}`: so many images in each folder, all different."""
    for number, (folder, count) in enumerate(layout.items()):
        for index in range(count):
            save(root / folder / f"{index:02d}.png", 100 * number + index)
    return root


def landed(data: EvalData) -> dict[str, list[str]]:
    """Return the names of the images of each split."""
    (task,) = data.tasks
    return {split: [data.names[i] for i in task.splits[split].tolist()] for split in SPLITS}


CLASSES = {"cat": 10, "dog": 5, "owl": 3}


def test_class_folders_are_split_the_same_on_every_machine(tmp_path: Path) -> None:
    data = open_data("folder", fill(tmp_path / "photos", CLASSES))
    found = landed(data)
    assert {split: found[split] for split in ("val", "test")} == EXPECTED
    assert len(found["train"]) == 11
    assert data.tasks[0].classes == ("cat", "dog", "owl")
    for split in ("seed 0", "0.2 to test and 0.1 for validation", "24 of 256 bits", "11 train"):
        assert split in data.notes["splits"]


EXPECTED: dict[str, list[str]] = {
    "val": ["cat/01.png", "dog/01.png", "owl/00.png"],
    "test": ["cat/03.png", "cat/09.png", "dog/04.png", "owl/01.png"],
}


def test_hashing_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes minutes for gigabytes of images."""
    shown: list[tuple[int, str]] = []

    def bar(items: Any, total: int, **settings: Any) -> Any:
        shown.append((total, settings["desc"]))
        return items

    monkeypatch.setattr("cassle_zoo.eval.datasets.files.tqdm", bar)
    open_data("folder", fill(tmp_path / "photos", CLASSES))
    assert shown == [(18, "hashes")]


def test_the_split_is_of_contents_and_not_of_places(tmp_path: Path) -> None:
    first = fill(tmp_path / "photos", CLASSES)
    before = landed(open_data("folder", first))
    first.rename(tmp_path / "other")
    moved = open_data("folder", tmp_path / "other")
    assert landed(moved) == before
    for path in sorted((tmp_path / "other").rglob("*.png")):
        path.rename(path.with_stem(f"x{99 - int(path.stem):02d}"))
    renamed = landed(open_data("folder", tmp_path / "other"))
    for split in SPLITS:
        names = [f"{Path(n).parent}/x{99 - int(Path(n).stem):02d}.png" for n in before[split]]
        assert sorted(names) == sorted(renamed[split])
    other = landed(open_data("folder", tmp_path / "other", split=SplitConfig(seed=1)))
    assert other != renamed


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", CLASSES)
    try:
        (root / "cat" / "00.png").rename(root / "cat" / "caf\udce9.png")
    except OSError:
        pytest.skip("this file system has none")
    assert "cat/caf\udce9.png" in open_data("folder", root).names


def test_fractions_are_those_asked_for(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 40, "b": 20})
    found = landed(open_data("folder", tmp_path, split=SplitConfig(test=0.5, val=0.25)))
    counts = {split: [n.partition("/")[0] for n in names] for split, names in found.items()}
    assert {s: (n.count("a"), n.count("b")) for s, n in counts.items()} == {
        "train": (10, 5), "val": (10, 5), "test": (20, 10),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="nothing to train"):
        SplitConfig(test=0.6, val=0.4)
    with pytest.raises(ConfigError, match=r"split\.test.*1\.5"):
        SplitConfig(test=1.5)


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 12, "b": 12})
    for index in range(12):
        image = random_waves(index)  # those of a, smaller and as JPEG
        image.resize((32, 32)).save(tmp_path / "a" / f"{index:02d}_copy.jpg", quality=60)
    data = open_data("folder", tmp_path)
    place = {name: split for split, names in landed(data).items() for name in names}
    for index in range(12):
        assert place[f"a/{index:02d}.png"] == place[f"a/{index:02d}_copy.jpg"]
    assert "24 images have one" in data.notes["splits"]


def test_near_duplicates_with_another_label_are_named(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 6, "b": 6})
    shutil.copy(tmp_path / "a" / "03.png", tmp_path / "b" / "z.png")
    with pytest.warns(UserWarning, match=r"^a near-duplicate of an.*a/03\.png and b/z\.png"):
        data = open_data("folder", tmp_path)
    place = {name: split for split, names in landed(data).items() for name in names}
    assert place["a/03.png"] == place["b/z.png"]


def test_what_is_alike() -> None:
    def jpeg(image: Image.Image, quality: int) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    images = [random_waves(seed, 96) for seed in range(20)]
    black = Image.new("RGB", (96, 96))
    alike = [
        *(jpeg(image, 50) for image in images[:5]),
        *(image.resize((48, 40)) for image in images[5:10]),
    ]
    other = [
        *(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images[:5]),
        *(Image.blend(image, black, 0.3) for image in images[5:10]),
        *(image.crop((20, 20, 90, 90)) for image in images[10:15]),
        Image.new("RGB", (9, 9), "red"),
        Image.new("RGB", (9, 9), "blue"),
    ]
    prints = np.stack([near_duplicates.fingerprint(i) for i in (*images, *alike, *other)])
    groups = near_duplicates.group_alike(prints)
    assert groups[:20] == list(range(20))
    assert groups[20:30] == list(range(10))
    assert groups[30:] == list(range(30, 47))


def test_groups_are_transitive_and_independent_of_the_order() -> None:
    zero = np.zeros(448, np.uint8)
    chain = [zero.copy() for _ in range(4)]
    for step, own_print in enumerate(chain):
        own_print[: 24 * step] = 1  # each differs from the next in the most bits allowed
    far = zero.copy()
    far[: 24 * 5] = 1
    prints = np.stack([far, *chain])
    assert near_duplicates.group_alike(prints) == [0, 1, 1, 1, 1]
    assert near_duplicates.group_alike(prints[::-1]) == [0, 0, 0, 0, 4]


def test_a_group_larger_than_a_split_goes_where_it_fits() -> None:
    labels, keys = [0] * 10 + [1] * 3, [f"{i}" for i in range(13)]
    groups = [0] * 8 + [8, 9, 10, 11, 12]
    for seed in range(5):
        found = split_by_class(labels, keys, groups, ("a", "b"), SplitConfig(seed=seed))
        assert sorted(i for rows in found.values() for i in rows.tolist()) == list(range(13))
        assert set(range(8)) <= set(found["train"].tolist())
        assert [len(found[split]) for split in SPLITS] == [9, 2, 2]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"a": 9, "b": 2}, r"1 of 2 classes have fewer than three different images.*b \(2\)"),
        ({"a": 9, "b": 0}, "no images of the classes b"),
        ({}, "no images that can be read; expected folders of classes"),
    ],
)
def test_classes_that_cannot_be_split(layout: dict[str, int], message: str, tmp_path: Path) -> None:
    fill(tmp_path, layout)
    for folder in layout:
        (tmp_path / folder).mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        open_data("folder", tmp_path)


def test_copies_of_one_image_are_no_class(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 9})
    for index in range(9):
        save(tmp_path / "b" / f"{index}.png", 1000)
    with pytest.raises(DataError, match=r"b \(1\)"):
        open_data("folder", tmp_path)


def test_hidden_folders_broken_and_unread_images(tmp_path: Path, monkeypatch: Any) -> None:
    fill(tmp_path, {"a": 30, "b": 30, ".ipynb_checkpoints": 3, "a/.ipynb_checkpoints": 2})
    (tmp_path / "a" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "b" / "photo.heic").write_bytes(b"heic")
    (tmp_path / "stray.png").write_bytes((tmp_path / "a" / "00.png").read_bytes())
    known = image_endings()
    monkeypatch.setattr("cassle_zoo.data.listing.image_endings", lambda: known - {".heic"})
    with pytest.warns(UserWarning) as said:
        data = open_data("folder", tmp_path)
    texts = "\n".join(str(own_warning.message) for own_warning in said)
    assert "1 of 61 images cannot be read: a/broken.jpg (" in texts
    assert "1 .heic not read: pip install" in texts
    assert "1 images directly in" in texts
    assert data.tasks[0].classes == ("a", "b")
    assert len(data.names) == 60
    assert data.notes["left out"] == "1 images cannot be read: a/broken.jpg"
    with pytest.raises(DataError, match=r"1 of 61 .*broken\.jpg.*--max-bad-fraction"):
        open_data("folder", tmp_path, max_bad_fraction=0.01)


@pytest.mark.parametrize("name", ["val", "validation", "valid", "Val"])
def test_train_and_val_without_test(name: str, tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 10, "train/b": 10, f"{name}/a": 2, f"{name}/b": 3})
    data = open_data("folder", tmp_path)
    found = landed(data)
    assert found["test"] == [f"{name}/{n}" for n in ("a/00.png", "a/01.png", *B)]
    assert found["val"] == HELD_OUT
    assert len(found["train"]) == 18
    assert data.notes["splits"].startswith("tested on the folder val, as there is no test")


B = ("b/00.png", "b/01.png", "b/02.png")
HELD_OUT = ["train/a/04.png", "train/b/02.png"]


def test_split_folders_keep_their_splits(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 1, "test/b": 2, "notes/x": 1})
    with pytest.warns(UserWarning, match="beside those of splits are left out: notes"):
        data = open_data("folder", tmp_path)
    assert landed(data)["val"] == ["val/a/00.png"]
    assert landed(data)["test"] == ["test/b/00.png", "test/b/01.png"]
    with pytest.raises(ConfigError, match=r"has folders of splits \(test, train, val\)"):
        open_data("folder", tmp_path, split=SplitConfig(seed=3))
    with pytest.raises(ConfigError, match="--split is for --dataset folder"):
        open_data("cifar10", tmp_path, split=SplitConfig(seed=3))


def test_copies_of_training_images_in_test_are_said(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", {"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    assert "copies" not in open_data("folder", root).notes
    shutil.copy(root / "train/a/00.png", root / "test/b/01.png")
    says = "1 of 4 test images are also among .*: test/b/01.png is train/a/00.png"
    with pytest.warns(UserWarning, match=says):
        data = open_data("folder", root)
    assert "test/b/01.png is train/a/00.png" in data.notes["copies"]
    lines = [f"{own},{own.split('/')[1]},{own.split('/')[0]}" for own in data.names]
    with pytest.warns(UserWarning, match=says):
        table = open_data("folder", write_table(root / "t.csv", lines))
    assert table.notes["copies"] == data.notes["copies"]


def test_what_is_left_out_of_any_split_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    root = fill(tmp_path, {"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    (root / "test/a/photo.heic").write_bytes(b"heic")
    save(root / "test/stray.png", 7)
    known = image_endings()
    monkeypatch.setattr("cassle_zoo.data.listing.image_endings", lambda: known - {".heic"})
    with pytest.warns(UserWarning) as said:
        open_data("folder", root)
    texts = "\n".join(str(own.message) for own in said)
    assert "1 .heic not read: pip install" in texts
    assert f"1 images directly in {root / 'test'} have no class" in texts


def test_splits_without_classes_are_no_classes(tmp_path: Path) -> None:
    data = open_data("folder", fill(tmp_path, {"train": 5, "Test": 5}))
    assert not data.tasks
    assert "Test/ and train/ are splits by their names" in data.unlabelled
    assert len(data.names) == 10


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = open_data(
        "folder", fill(tmp_path, {"car": 5, "train": 5, "train/.ipynb_checkpoints": 1})
    )
    assert data.tasks[0].classes == ("car", "train")


def write_table(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("head", [["path,label"], ["Class;Filename"], []])
def test_a_table_is_split_as_folders_are(head: list[str], tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", CLASSES)
    expected = landed(open_data("folder", root))
    rows = [f"{p.relative_to(root).as_posix()},{p.parent.name}" for p in root.rglob("*.png")]
    if head == ["Class;Filename"]:
        rows = [";".join(reversed(row.split(","))) for row in rows]
    table = write_table(root / "labels.csv", [*head, *sorted(rows, reverse=True)])
    data = open_data("folder", table)
    assert landed(data) == expected
    assert data.root == root
    assert data.name == "folder:labels.csv"
    table.write_text(table.read_text("utf-8"), "utf-16")  # as spreadsheets on Windows do
    assert landed(open_data("folder", table)) == expected


def test_a_table_with_splits(tmp_path: Path) -> None:
    fill(tmp_path, {"x": 8})
    rows = [f"x/{i:02d}.png,{'ab'[i % 2]},{'Train' if i < 4 else 'valid' if i < 6 else 'test'}"
            for i in range(8)]  # fmt: skip
    data = open_data("folder", write_table(tmp_path / "t.csv", ["path,label,split", *rows]))
    assert landed(data) == {
        "train": ["x/00.png", "x/02.png", "x/01.png", "x/03.png"],
        "val": ["x/04.png", "x/05.png"],
        "test": ["x/06.png", "x/07.png"],
    }
    assert data.notes["splits"] == "as the table says"
    assert landed(open_data("folder", write_table(tmp_path / "u.csv", rows))) == landed(data)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        (["path,label"], "names no images"),
        (["path,label", "x/00.png,a", "x/00.png,b"], r"several times: x/00\.png"),
        (["path,label", "x/99.png,a", "x/00.png,b"], r"1 of 2 images are not there.*x/99\.png"),
        (["name,kind", "x/00.png,b"], r"not there, the first is 'name'.*may name its columns"),
        (["path,label", "x/00.png,a", "x/01.png,"], r"without a label: x/01\.png"),
        (["path,label", "x/00.png,a", "x/01.png"], "line 3: 1 columns, expected 2"),
        (["path,label", "x/00.png,a", ",b"], "line 3: no path"),
        (["x/00.png,a,train,7"], "4 columns; name them in its first line"),
        (["path,label", "x/00.png,a", "x/01.png,a"], "only one class, a"),
        (["path,label,Label", "x/00.png,a,b"], "several columns label"),
        (
            ["path,label,note", "x/00.png,a,", 'x/01.png,b,"big', "x/02.png,c,"],
            r"t\.csv', line 4: .*a cell that begins with a quote must end with one",
        ),
        (["x/00.png,a,train", "x/01.png,b,tst"], "unknown splits 'tst'"),
        (["x/00.png,a,train", "x/01.png,b,train"], r"no images of the splits train and test"),
        (["x/00.png,a,train", "x/01.png,b,test"], r"without images to train with: b"),
    ],
)
def test_tables_that_cannot_be_used(lines: list[str], message: str, tmp_path: Path) -> None:
    fill(tmp_path, {"x": 3})
    with pytest.raises(DataError, match=message):
        open_data("folder", write_table(tmp_path / "t.csv", lines))


def test_other_files_are_no_tables(tmp_path: Path) -> None:
    for name in ("t.json", "missing.csv"):
        if name == "t.json":
            (tmp_path / name).write_text("{}")
        with pytest.raises(DataError, match=r"expected folders of classes"):
            open_data("folder", tmp_path / name)


COMPUTE: dict[str, Any] = {"no_cache": True, "device": "cpu", "progress": False}


@pytest.mark.parametrize("layout", ["flat", "one folder", "table"])
def test_images_without_labels(layout: str, tmp_path: Path) -> None:
    root = fill(tmp_path, {"only" if layout == "one folder" else ".": 12})
    path = root
    if layout == "table":
        path = write_table(root / "t.csv", [f"{i:02d}.png" for i in range(12)])
    data = open_data("folder", path)
    assert (len(data.images), data.tasks) == (12, ())
    names = r"no column of labels \(label, .*, class, .*" if layout == "table" else ""
    says = rf"has no labels: .*{names}sensitivity, equivariance, spectrum"
    with pytest.raises(DataError, match=says):
        data.tasks_of("classification")
    result, outcome = evaluate(
        "view-retrieval", ViewRetrieval(augmentations=("flip",), ks=(1,)),
        "random-init:test_resnet", data, Compute(size=32, **COMPUTE),
    )  # fmt: skip
    assert set(result.metrics) == {"flip", "recipe"}
    assert [len(own.values["mrr"]) for own in outcome.scores] == [12, 12]
    assert "3x32x32" in result.protocol["input"]
    evaluate("spectrum", Spectrum(components=(1, 4), figures=False), "random-init:test_resnet",
             data, Compute(**COMPUTE))  # fmt: skip


def test_broken_images_are_left_out_where_views_are_made(tmp_path: Path) -> None:
    fill(tmp_path, {".": 20})
    good = open_data("folder", tmp_path)
    (tmp_path / "99.png").write_bytes(b"no image")
    data = open_data("folder", tmp_path)
    settings = Sensitivity(augmentations=("flip",), figures=False)
    model = "random-init:test_resnet"
    with pytest.warns(UserWarning, match=r"1 of 21 images cannot be read: 99\.png"):
        found, _ = evaluate("sensitivity", settings, model, data, Compute(**COMPUTE))
    expected, _ = evaluate("sensitivity", settings, model, good, Compute(**COMPUTE))
    assert found.metrics == expected.metrics
    assert "99.png" in found.protocol["left out"]
    with pytest.raises(DataError, match=r"1 of 21 .*99\.png.*--max-bad-fraction"):
        evaluate("sensitivity", settings, model, data, Compute(max_bad_fraction=0, **COMPUTE))


def test_view_retrieval_by_hand(tmp_path: Path) -> None:
    """Features that a flip does not change find everything; mean colour finds under crop, too."""
    import torch
    from torch import nn

    class Sides(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            both = images + images.flip(3)
            return nn.functional.adaptive_avg_pool2d(both, 4).flatten(1)

    fill(tmp_path, {".": 12})
    data = open_data("folder", tmp_path)
    settings = ViewRetrieval(augmentations=("flip", "grayscale"), ks=(1, 5))
    with pytest.warns(UserWarning, match="no pretrained_cfg"):
        result, _ = evaluate("view-retrieval", settings, Sides(), data, Compute(**COMPUTE))
    assert result.metrics["flip"] == {"recall@1": 1.0, "recall@5": 1.0, "mrr": 1.0}
    assert result.metrics["recipe"]["recall@1"] < 1
    assert result.metrics["recipe"]["mrr"] <= result.metrics["recipe"]["recall@5"] + 1 / 6
    with pytest.raises(ConfigError, match="only 12 images"):
        evaluate("view-retrieval", ViewRetrieval(ks=(12,)), Sides(), data, Compute(**COMPUTE))
