import dataclasses

import pytest
import torch

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.emoji64 import SKIN_TONES, VENDORS
from cassle_zoo.eval.datasets.emoji64 import (
    CLASSIFICATION_TASKS,
    classification,
    open_data,
    retrieval,
)


def parts(task):
    return {name: rows.tolist() for name, rows in task.splits.items()}


@pytest.mark.parametrize("name", CLASSIFICATION_TASKS)
def test_parts_share_no_base(name, records):
    task = classification(records, name)
    own = parts(task)
    assert list(own) == ["train", "val", "test"]
    bases = [{records[i].base for i in rows} for rows in own.values()]
    assert all(bases)
    assert not bases[0] & bases[1]
    assert not (bases[0] | bases[1]) & bases[2]
    used = {row for rows in own.values() for row in rows}
    for index, label in enumerate(task.targets.tolist()):
        assert (index in used) == (label >= 0)
        assert label < 0 or task.classes[label] == getattr(records[index], name)
    assert all(records[i].split == "test" for i in own["test"])
    assert all(records[i].split == "train" for i in (*own["train"], *own["val"]))


def test_labels(records):
    # 3 training bases of "rare", 11 or more of the others.
    assert classification(records, "subcategory").classes == ("country-flag", "face", "person")
    assert classification(records, "skin_tone").classes == SKIN_TONES
    assert classification(records, "vendor").classes == VENDORS


def test_validation_is_about_a_fifth_and_depends_on_the_base_only(records):
    own = parts(classification(records, "vendor"))
    bases = {records[i].base for i in (*own["train"], *own["val"])}
    held_out = {records[i].base for i in own["val"]}
    assert 0.05 < len(held_out) / len(bases) < 0.4
    backwards = records[::-1]
    val = parts(classification(backwards, "vendor"))["val"]
    assert {backwards[i].base for i in val} == held_out


def test_flags(records):
    query, gallery = parts(retrieval(records, "flags")).values()
    assert {records[i].vendor for i in query} == {"twemoji"}
    assert {records[i].vendor for i in gallery} == {"noto"}
    assert len(query) == len(gallery) == 14
    assert {records[i].subcategory for i in (*query, *gallery)} == {"country-flag"}


def test_identity(records):
    task = retrieval(records, "identity")
    query, gallery = parts(task).values()
    queries = [records[i] for i in query]
    assert {(r.vendor, r.split, r.skin_tone) for r in queries} == {("twemoji", "test", "none")}
    assert gallery == [i for i, r in enumerate(records) if r.vendor == "fluent3d"]
    # Twemoji drew flags, Fluent did not.
    assert {r.subcategory for r in queries} == {"face", "person"}
    for index in query:
        same = [i for i in gallery if torch.equal(task.targets[i], task.targets[index])]
        assert [records[i].unified for i in same] == [records[index].unified]
    assert [task.classes[label] for label in task.targets] == [r.unified for r in records]


def test_too_few_images(records):
    with pytest.raises(DataError, match="flags: no images"):
        retrieval([r for r in records if r.vendor != "noto"], "flags")
    with pytest.raises(DataError, match="vendor: no images to test"):
        classification([dataclasses.replace(r, split="train") for r in records], "vendor")


@pytest.mark.parametrize("name", ["photos", "photos.csv"])
def test_images_of_ones_own_are_pointed_to_the_dataset_folder(name, tmp_path):
    path = tmp_path / name
    if path.suffix:
        path.write_text("path,label\na.png,a\n")
    else:
        (path / "a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"emoji64 is either.*--dataset folder"):
        open_data(path)


@pytest.mark.parametrize("name", ["absent", "damaged.tar", "incomplete"])
def test_a_faulty_emoji64_is_not_taken_for_images_of_ones_own(name, tmp_path):
    path = tmp_path / name
    if name == "damaged.tar":
        path.write_text("no tar")
    elif name == "incomplete":
        path.mkdir()
        (path / "metadata.csv").write_text("no metadata")
    with pytest.raises(DataError) as caught:
        open_data(path)
    assert "--dataset" not in str(caught.value)
