import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from cassle_zoo.common.errors import DataError, MissingDependencyError
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.eval.base import Compute
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols.regression import Regression
from cassle_zoo.eval.runner import evaluate


def write_lspose(root, save, count=20):
    for number in range(1, count + 1):
        save(root / "images" / f"im{number:04d}.jpg", (12, 20) if number % 2 else (30, 10))
    joints = np.zeros((3, 14, count))
    joints[0], joints[1] = 6, 10  # x, y; the third is visibility
    joints[0, 3, 1] = 20
    savemat(root / "joints.mat", {"joints": joints})


def test_lspose(tmp_path, save_image):
    write_lspose(tmp_path, save_image)
    data = open_data("lspose", tmp_path)
    (task,) = data.tasks
    assert (task.kind, task.metric, task.targets.shape) == ("regression", "r2", (20, 28))
    # 12x20: the square begins at (0, 4); 30x10: at (10, 0).
    torch.testing.assert_close(task.targets[0, :2], torch.tensor([6 / 12, (10 - 4) / 12]))
    torch.testing.assert_close(task.targets[1, 6:8], torch.tensor([(20 - 10) / 10, 10 / 10]))
    assert data.images[0][0].size == (12, 12)
    assert data.images[1][0].size == (10, 10)
    order = np.arange(20)
    np.random.RandomState(0).shuffle(order)
    assert task.splits["test"].tolist() == order[12:].tolist()
    assert [len(task.splits[s]) for s in ("train", "val", "test")] == [11, 1, 8]
    assert data.name == "lspose (modified)"


def test_lspose_that_does_not_fit(tmp_path, save_image, monkeypatch):
    with pytest.raises(DataError, match=r"images/im0001.jpg.*joints.mat"):
        open_data("lspose", tmp_path)
    write_lspose(tmp_path, save_image)
    save_image(tmp_path / "images" / "im9999.jpg")
    with pytest.raises(DataError, match=r"\(3, 14, 20\), expected \(3, 14, 21\)"):
        open_data("lspose", tmp_path)
    (tmp_path / "joints.mat").write_bytes(b"no MATLAB file at all")
    with pytest.raises(DataError, match=r"cannot read .*joints.mat"):
        open_data("lspose", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"cassle-zoo\[mat\]"):
        open_data("lspose", tmp_path)


def write_300w(root, save, each=6):
    points = [(10 + i % 17, 20 + i // 17 * 9.5) for i in range(68)]
    text = "version: 1\nn_points:  68\n{\n" + "".join(f"{x} {y}\n" for x, y in points) + "}\n"
    for folder, stem in (("01_Indoor", "indoor"), ("02_Outdoor", "outdoor")):
        for number in range(1, each + 1):
            save(root / folder / f"{stem}_{number:03d}.png", (60, 80))
            (root / folder / f"{stem}_{number:03d}.pts").write_text(text)


def test_300w(tmp_path, save_image):
    write_300w(tmp_path / "300W", save_image)
    data = open_data("300w", tmp_path)
    (task,) = data.tasks
    assert task.targets.shape == (12, 136)
    # The box begins at (10, 20) and is as high as the points, 28.5 rounded up.
    torch.testing.assert_close(task.targets[5, :2], torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(task.targets[5, -2:], torch.tensor([16 / 29, 28.5 / 29]))
    assert data.images[0][0].size == (29, 29)
    assert [len(task.splits[s]) for s in ("train", "val", "test")] == [3, 3, 5]
    assert data.names[-1] == "02_Outdoor/outdoor_006.png"
    assert 11 not in torch.cat(list(task.splits.values()))
    points = tmp_path / "300W" / "01_Indoor" / "indoor_002.pts"
    points.write_text("version: 1\nn_points: 2\n{\n1 2\n3 4\n}\n")
    with pytest.raises(DataError, match=r"indoor_002.pts has points \(2, 2\)"):
        open_data("300w", tmp_path)
    points.write_text("nothing")
    with pytest.raises(DataError, match=r"indoor_002.pts is not a .pts file"):
        open_data("300w", tmp_path)
    points.unlink()
    with pytest.raises(DataError, match=r"cannot read .*indoor_002.pts"):
        open_data("300w", tmp_path)


def test_300w_missing(tmp_path):
    with pytest.raises(DataError, match=r"01_Indoor/indoor_001.png"):
        open_data("300w", tmp_path)


def write_celeba(root, save, count=10):
    base = root / "celeba"
    names = [f"{number:06d}.jpg" for number in range(1, count + 1)]
    for name in names:
        save(base / "img_align_celeba" / name, (178, 218))
    columns = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y"
    rows = [
        f"{name}  69  109  106  113   77  142   73  152  {i:3d}  154"
        for i, name in enumerate(names)
    ]
    header = f"{count}\n{columns} rightmouth_x rightmouth_y\n"
    (base / "list_landmarks_align_celeba.txt").write_text(header + " \n".join(rows) + " \n")
    parts = [f"{name} {i * 3 // count}" for i, name in enumerate(names)]
    (base / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")


def test_celeba(tmp_path, save_image):
    write_celeba(tmp_path, save_image)
    data = open_data("celeba", tmp_path)
    (task,) = data.tasks
    assert task.targets.shape == (10, 10)
    torch.testing.assert_close(task.targets[0, :2], torch.tensor([69 / 178, (109 - 20) / 178]))
    assert task.targets[:, 8].mul(178).round().tolist() == list(range(10))
    assert {s: rows.tolist() for s, rows in task.splits.items()} == {
        "train": [0, 1, 2, 3],
        "val": [4, 5, 6],
        "test": [7, 8, 9],
    }
    assert data.images[0][0].size == (178, 178)
    assert "of the same" not in data.notes["splits"]
    landmarks = tmp_path / "celeba" / "list_landmarks_align_celeba.txt"
    landmarks.write_text(landmarks.read_text().replace("000003.jpg", "000033.jpg"))
    with pytest.raises(DataError, match="list different images"):
        open_data("celeba", tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg", r"line 2: expected a key and"),
        ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 9", "list different images"),
        ("list_landmarks_align_celeba.txt", " 109 ", " x ", r"txt: could not convert .*'x'"),
        ("list_landmarks_align_celeba.txt", " 109 ", " ", "expected lines of ten numbers"),
    ],
)
def test_damaged_celeba(file, old, new, message, tmp_path, save_image):
    write_celeba(tmp_path, save_image)
    path = tmp_path / "celeba" / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        open_data("celeba", tmp_path)


def test_celeba_missing(tmp_path, save_image):
    with pytest.raises(DataError, match=r"list_eval_partition.txt"):
        open_data("celeba", tmp_path)
    write_celeba(tmp_path, save_image)
    (tmp_path / "celeba" / "img_align_celeba" / "000004.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 10 images .*000004.jpg"):
        open_data("celeba", tmp_path)
    (tmp_path / "celeba" / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*list_eval_partition"):
        open_data("celeba", tmp_path)


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("lspose", write_lspose, "43d0189afb1807e1"),
        ("300w", write_300w, "e3fa3c15d3c81eff"),
        ("celeba", write_celeba, "bdee50c30f834850"),
    ],
)
def test_recorded_datasets_stay_what_they_are(
    name, write, expected, tmp_path, save_image, identity
):
    write(tmp_path, save_image)
    assert identity(open_data(name, tmp_path)) == expected


def test_boxes_may_reach_beyond_the_image(tmp_path, save_image):
    Image.new("RGB", (4, 4), "white").save(tmp_path / "a.png")
    image, _ = ImageFiles(tmp_path, ["a.png"], boxes=[(-2, 0, 2, 4)])[0]
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert image.getpixel((3, 0)) == (255, 255, 255)


def test_images_and_keypoints_are_cropped_alike(tmp_path):
    """Where a white square is, is a linear function of the pixels: R² tells if both fit."""
    random = np.random.RandomState(0)
    joints = np.zeros((3, 14, 150))
    (tmp_path / "images").mkdir()
    for number in range(150):
        wide = number % 2 == 0
        centre = random.randint(16, 48, size=2)
        seen_from = np.array([32, 0] if wide else [0, 18])
        left, top = (centre + seen_from - 12).tolist()
        image = Image.new("RGB", (128, 64) if wide else (64, 100))
        image.paste("white", (left, top, left + 24, top + 24))
        image.save(tmp_path / "images" / f"im{number + 1:04d}.jpg", quality=95)
        joints[:2, :, number] = (centre + seen_from)[:, None]
    savemat(tmp_path / "joints.mat", {"joints": joints})
    data = open_data("lspose", tmp_path)
    compute = Compute(no_cache=True, progress=False)
    result, _ = evaluate("regression", Regression(), "raw-pixels", data, compute)
    assert result.metrics["keypoints"]["r2"] > 0.95
    assert result.protocol["targets"].startswith("x, y")
