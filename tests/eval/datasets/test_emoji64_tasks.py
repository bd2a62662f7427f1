import dataclasses

import pytest

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.emoji64_records import SKIN_TONES, VENDORS
from cassle_zoo.eval.datasets.emoji64_tasks import (
    CLASSIFICATION_TASKS,
    RETRIEVAL_TASKS,
    TASKS,
    classification,
    retrieval,
)


def test_all_tasks_are_described():
    assert set(TASKS) == {*CLASSIFICATION_TASKS, *RETRIEVAL_TASKS}


@pytest.mark.parametrize("task", CLASSIFICATION_TASKS)
def test_parts_share_no_base(task, records):
    part = classification(records, task)
    bases = [{records[i].base for i in own} for own in (part.train, part.val, part.test)]
    assert all(bases)
    assert not bases[0] & bases[1]
    assert not (bases[0] | bases[1]) & bases[2]
    for index, label in enumerate(part.labels):
        used = index in {*part.train, *part.val, *part.test}
        assert used == (label >= 0)
        assert not used or part.classes[label] == getattr(records[index], task)
    assert all(records[i].split == "test" for i in part.test)
    assert all(records[i].split == "train" for i in (*part.train, *part.val))


def test_labels(records):
    # 3 training bases of "rare", 11 or more of the others.
    assert classification(records, "subcategory").classes == ("country-flag", "face", "person")
    assert classification(records, "skin_tone").classes == SKIN_TONES
    assert classification(records, "vendor").classes == VENDORS


def test_validation_is_about_a_fifth_and_depends_on_the_base_only(records):
    part = classification(records, "vendor")
    bases = {records[i].base for i in (*part.train, *part.val)}
    held_out = {records[i].base for i in part.val}
    assert 0.05 < len(held_out) / len(bases) < 0.4
    backwards = records[::-1]
    assert {backwards[i].base for i in classification(backwards, "vendor").val} == held_out


def test_flags(records):
    part = retrieval(records, "flags")
    assert {records[i].vendor for i in part.queries} == {"twemoji"}
    assert {records[i].vendor for i in part.gallery} == {"noto"}
    assert len(part.queries) == len(part.gallery) == 14
    assert {records[i].subcategory for i in (*part.queries, *part.gallery)} == {"country-flag"}


def test_identity(records):
    part = retrieval(records, "identity")
    queries = [records[i] for i in part.queries]
    assert {(r.vendor, r.split, r.skin_tone) for r in queries} == {("twemoji", "test", "none")}
    gallery = [i for i, r in enumerate(records) if r.vendor == "fluent3d"]
    assert list(part.gallery) == gallery
    # Twemoji drew flags, Fluent did not.
    assert {r.subcategory for r in queries} == {"face", "person"}
    for index in part.queries:
        same = [i for i in gallery if part.labels[i] == part.labels[index]]
        assert [records[i].unified for i in same] == [records[index].unified]


def test_too_few_images(records):
    with pytest.raises(DataError, match="flags: no images"):
        retrieval([r for r in records if r.vendor != "noto"], "flags")
    with pytest.raises(DataError, match="vendor: no images to test"):
        classification([dataclasses.replace(r, split="train") for r in records], "vendor")
