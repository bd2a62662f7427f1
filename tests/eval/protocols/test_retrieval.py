import dataclasses

import pytest
import torch

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import Compute, EvalData
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols.retrieval import Retrieval
from cassle_zoo.eval.runner import evaluate

QUIET = Compute(no_cache=True, progress=False)


@pytest.fixture(scope="module")
def data(emoji_tar) -> EvalData:
    return open_data("emoji64", emoji_tar)


def measure(data, compute=QUIET, **settings):
    return evaluate("retrieval", Retrieval(**settings), "raw-pixels", data, compute)


@pytest.fixture(scope="module")
def found(data):
    return measure(data, examples=3, shown=2)


def test_every_task_has_scores_a_sheet_and_a_page(found, data):
    result, outcome = found
    tasks = {"subcategory", "skin_tone", "vendor", "flags", "identity"}
    assert set(result.metrics) == tasks
    for scores in result.metrics.values():
        assert list(scores) == ["recall@1", "recall@5", "recall@10", "mAP"]
        assert 0 <= scores["recall@1"] <= scores["recall@5"] <= scores["recall@10"] <= 1
    assert set(outcome.files) == {f"{t}.{end}" for t in tasks for end in ("html", "png")}
    page = outcome.files["vendor.html"].decode()
    assert page.count("<section") == 3
    assert page.count("<li ") == 6
    assert "raw-pixels" in page
    flags = outcome.files["flags.html"].decode()
    queries = data.tasks_of("retrieval")[0].splits["query"]
    assert data.captions[int(queries[0])] in flags.split("<section")[1].split(">")[0]


def test_batch_size_and_workers_do_not_matter(found, data):
    again, outcome = measure(data, Compute(batch_size=7, workers=2, no_cache=True), examples=0)
    assert again.metrics == found[0].metrics
    assert not outcome.files


def test_leave_one_out(data):
    result, outcome = measure(data, classification="test", examples=2, ks=(1, 30))
    test = data.tasks_of("classification")[0].splits["test"]
    assert result.protocol["retrieval of classes"] == "query test, gallery all other test images"
    first = outcome.files["subcategory.html"].decode().split("<section")[1]
    assert first.count(f'<span class="faint">{data.names[int(test[0])]}, ') == 1
    assert first.count("<li ") == 8


def test_queries_alone_in_their_class_are_left_out_and_counted(data):
    task = data.tasks_of("classification")[0]
    test = task.splits["test"]
    targets = task.targets.clone()
    targets[test] = torch.tensor([1, *[0] * (len(test) - 1)])
    changed = dataclasses.replace(data, tasks=(dataclasses.replace(task, targets=targets),))
    result, _ = measure(changed, classification="test", examples=0)
    assert result.protocol["subcategory, left out"] == (
        "1 of the queries, without another of their class"
    )
    with pytest.raises(DataError, match=r"1 of .* queries have no image with their label"):
        targets[test[0]] = 99
        measure(changed, examples=0)


def test_wrong_settings(data):
    for settings in ({"examples": -1}, {"shown": 0}, {"ks": (1, 0)}):
        with pytest.raises(ConfigError, match="at least"):
            Retrieval(**settings)
    classes_only = dataclasses.replace(data, tasks=data.tasks_of("classification"))
    with pytest.raises(DataError, match="no task of the kind retrieval"):
        measure(classes_only, classification="none")
