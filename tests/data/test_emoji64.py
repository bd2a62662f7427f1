import gzip
import pickle
import shutil
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.emoji64 import Emoji64, pretraining_dataset


def first(batch):
    return [(image.tobytes(), label) for image, label in batch]


def test_tar_and_folder_hold_the_same(emoji_tar, emoji_folder):
    tar, folder = Emoji64.open(emoji_tar), Emoji64.open(str(emoji_folder))
    assert tar.records == folder.records
    assert len(tar) == len(tar.records) > 0
    assert tar.image(7).mode == "RGB"
    assert tar.image(7).tobytes() == folder.image(7).tobytes() != tar.image(8).tobytes()
    assert tar.sha256 == folder.sha256


def test_hash_sees_pixels_and_labels(emoji_folder, tmp_path):
    other = tmp_path / "copy"
    shutil.copytree(emoji_folder, other)
    original = Emoji64.open(other).sha256
    data = Emoji64.open(other)
    image = data.image(0)
    image.save(other / data.records[0].file_name, compress_level=0)
    assert Emoji64.open(other).sha256 == original
    image.putpixel((0, 0), (1, 2, 3))
    image.save(other / data.records[0].file_name)
    assert Emoji64.open(other).sha256 != original


def test_pickles_and_serves_workers(emoji_tar):
    dataset = pretraining_dataset(emoji_tar)
    expected = [(image.tobytes(), label) for image, label in (dataset[i] for i in range(8))]
    copy = pickle.loads(pickle.dumps(dataset))
    assert [(copy[i][0].tobytes(), copy[i][1]) for i in range(8)] == expected
    loader = DataLoader(dataset, sampler=range(8), batch_size=2, num_workers=2, collate_fn=first)
    assert [item for batch in loader for item in batch] == expected


def test_pretraining_uses_the_train_split_only(emoji_folder):
    dataset = pretraining_dataset(emoji_folder)
    records = dataset.records
    assert {record.split for record in records} == {"train"}
    assert [dataset.classes[label] for label in dataset.targets] == [r.subcategory for r in records]


def test_subset(emoji_tar):
    data = Emoji64.open(emoji_tar)
    mask = [record.vendor == "noto" for record in data.records]
    noto = data.subset(mask)
    assert {record.vendor for record in noto.records} == {"noto"}
    assert noto.image(1).tobytes() == data.image([i for i, m in enumerate(mask) if m][1]).tobytes()


def test_missing_path_says_how_to_get_the_data(tmp_path):
    with pytest.raises(DataError, match=r"no such file.*emoji64_build"):
        Emoji64.open(tmp_path / "absent.tar")


def test_not_emoji64(tmp_path):
    with pytest.raises(DataError, match=r"no metadata\.csv"):
        Emoji64.open(tmp_path)
    text = tmp_path / "a.txt"
    text.write_text("hello")
    with pytest.raises(DataError, match="not an uncompressed tar"):
        Emoji64.open(text)
    (tmp_path / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column file_name"):
        Emoji64.open(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        Emoji64.open(tmp_path)


def test_compressed_tar(emoji_tar, tmp_path):
    path = tmp_path / "emoji64.tar.gz"
    path.write_bytes(gzip.compress(emoji_tar.read_bytes(), 1))
    with pytest.raises(DataError, match="not an uncompressed tar"):
        Emoji64.open(path)


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.1, 0.0])
def test_truncated_tar(emoji_tar, tmp_path, keep):
    content = emoji_tar.read_bytes().rstrip(b"\0")
    path = tmp_path / "cut.tar"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=r"cut\.tar"):
        Emoji64.open(path)


def test_incomplete_folder_and_bad_image(emoji_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(emoji_folder, copy)
    data = Emoji64.open(copy)
    name = data.records[3].file_name
    (copy / name).write_bytes((emoji_folder / name).read_bytes()[:60])
    with pytest.raises(DataError, match=name):
        data.image(3)
    (copy / name).unlink()
    with pytest.raises(DataError, match=rf"1 of \d+ .*missing.* {name}"):
        Emoji64.open(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [(("train", "dev"), "split is 'dev'"), (("NAME", ""), None), ((",face,", ",,"), "subcategory")],
)
def test_wrong_metadata_names_the_line(emoji_folder, tmp_path, change, message):
    copy = tmp_path / "copy"
    shutil.copytree(emoji_folder, copy)
    path = Path(copy / "metadata.csv")
    path.write_text(path.read_text().replace(*change, 1))
    if message is None:
        Emoji64.open(copy)
    else:
        with pytest.raises(DataError, match=f"line 2.*{message}"):
            Emoji64.open(copy)
