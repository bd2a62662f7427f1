"""Scores against plain loops and scikit-learn, and the rule for ties against all orders."""

import dataclasses
import itertools
import re
import tracemalloc

import pytest
import torch
from sklearn.metrics import average_precision_score

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import Compute, EvalData
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols.retrieval import TIE, Retrieval, RetrievalScores, retrieve
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


def test_a_gallery_smaller_than_what_is_to_be_shown_is_shown_whole(data):
    _, outcome = measure(data, classification="none", examples=1, shown=400)
    for task in data.tasks_of("retrieval"):
        page = outcome.files[f"{task.name}.html"].decode()
        assert page.count("<li ") == len(task.splits["gallery"]) < 400


def test_galleries_of_whitened_features_show_the_raw_ones_too(data, found):
    _, outcome = measure(data, classification="none", examples=3, shown=2, whiten=4)
    page = outcome.files["flags.html"].decode()
    assert page.count("<h3>whitened</h3>") == page.count("<h3>raw</h3>") == 3
    assert "Above: whitened to 4 principal components of" in page
    assert "; raw below." in page
    scores = re.compile(r"-?\d\.\d{3}(?=\s*<div>)")
    whitened, raw = (
        [scores.findall(part.split("</ol>")[0]) for part in page.split(f"<h3>{name}</h3>")[1:]]
        for name in ("whitened", "raw")
    )
    plain = found[1].files["flags.html"].decode().split("<ol>")[1:]
    assert raw == [scores.findall(part.split("</ol>")[0]) for part in plain]
    assert [len(row) for row in raw] == [2] * 3
    assert whitened != raw


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
    with pytest.raises(DataError, match=r"1 of .* queries .*label"):
        targets[test[0]] = 99
        measure(changed, examples=0)


def test_wrong_settings(data):
    for settings in ({"examples": -1}, {"shown": 0}, {"ks": (1, 0)}):
        with pytest.raises(ConfigError, match="at least"):
            Retrieval(**settings)
    classes_only = dataclasses.replace(data, tasks=data.tasks_of("classification"))
    with pytest.raises(DataError, match="no task of the kind retrieval"):
        measure(classes_only, classification="none")


KS = (1, 2, 5, 10)


def features(rows: int, seed: int = 0, width: int = 16) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def labels(rows: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


def ranked(order: torch.Tensor) -> tuple[list[float], float]:
    """Recalls at `KS` and average precision of a ranking, given as relevant or not."""
    hits, precisions = 0, []
    for rank, relevant in enumerate(order.tolist(), start=1):
        hits += relevant
        if relevant:
            precisions.append(hits / rank)
    return [float(order[:k].any()) for k in KS], sum(precisions) / len(precisions)


def assert_same(found: RetrievalScores, expected: RetrievalScores) -> None:
    torch.testing.assert_close(
        found.average_precision, expected.average_precision, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(found.recall, expected.recall, atol=1e-12, rtol=0)


@pytest.mark.parametrize("classes", [2, 12])
def test_agrees_with_references(classes: int) -> None:
    gallery, queries = features(90), features(20, seed=1)
    own, wanted = labels(90, classes), labels(20, classes, seed=1)
    found = retrieve(queries, wanted, gallery, own, ks=KS)
    cosine = torch.cosine_similarity(queries.double()[:, None], gallery.double()[None], dim=2)
    assert cosine.sort().values.diff().min() > 2 * TIE
    for row in range(20):
        relevant = own == wanted[row]
        recalls, precision = ranked(relevant[cosine[row].argsort(descending=True)])
        assert [found.recall[k][row].item() for k in KS] == recalls
        assert found.average_precision[row].item() == pytest.approx(precision, abs=1e-12)
        expected = average_precision_score(relevant.numpy(), cosine[row].numpy())
        assert found.average_precision[row].item() == pytest.approx(expected, abs=1e-12)


def test_queries_in_the_gallery_do_not_find_themselves() -> None:
    items, own = features(60), labels(60, 5)
    found = retrieve(items, own, items, own, ks=KS, positions=torch.arange(60))
    for row in range(60):
        rest = torch.arange(60) != row
        alone = retrieve(items[[row]], own[[row]], items[rest], own[rest], ks=KS)
        assert found.average_precision[row].item() == pytest.approx(alone.average_precision.item())
        assert all(found.recall[k][row] == alone.recall[k] for k in KS)
    assert retrieve(items, own, items, own).recall[1].mean() == 1


def test_large_classes_do_not_fill_the_memory() -> None:
    items, own = features(2000, width=4), torch.arange(2000) % 2
    tracemalloc.start()
    try:
        retrieve(items, own, items, own, positions=torch.arange(2000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The indices of what is relevant to every query are 16 MB, four counts of each 64 MB.
    assert peak < 2**25


@pytest.mark.parametrize("cosines", ["abbb", "bbbbb", "aabbc", "acbbb"])
def test_ties_are_averaged_over_all_orders(cosines: str) -> None:
    """Equal letters are equal images, earlier letters are nearer to the query."""
    angle = torch.tensor([0.3 * (ord(letter) - ord("a")) for letter in cosines])
    gallery = torch.stack([angle.cos(), angle.sin()], dim=1)
    query = torch.tensor([[1.0, 0.0]])
    orders = [
        order
        for order in itertools.permutations(range(len(cosines)))
        if [cosines[i] for i in order] == sorted(cosines)
    ]
    for pattern in itertools.product([0, 1], repeat=len(cosines)):
        if not any(pattern):
            continue
        found = retrieve(query, torch.tensor([1]), gallery, torch.tensor(pattern), ks=KS)
        scores = [ranked(torch.tensor(pattern)[list(order)]) for order in orders]
        for place, k in enumerate(KS):
            mean = sum(recalls[place] for recalls, _ in scores) / len(scores)
            assert found.recall[k].item() == pytest.approx(mean, abs=1e-12)
        mean = sum(precision for _, precision in scores) / len(scores)
        assert found.average_precision.item() == pytest.approx(mean, abs=1e-12)


def test_equal_images_tie_whatever_the_rounding() -> None:
    image = features(1, width=512)
    noise = 1 + 1e-7 * features(50, seed=2, width=1)
    found = retrieve(image, torch.tensor([0]), image * noise, torch.arange(50), ks=KS)
    assert [found.recall[k].item() for k in KS] == pytest.approx([k / 50 for k in KS])


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_and_the_order_of_the_gallery_do_not_matter(chunk: int) -> None:
    gallery = features(1000, width=32)
    gallery[800:] = gallery[:200]
    queries, wanted, own = features(30, seed=1, width=32), labels(30, 9), labels(1000, 9)
    expected = retrieve(queries, wanted, gallery, own, ks=KS)
    assert_same(retrieve(queries, wanted, gallery, own, ks=KS, chunk=chunk), expected)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert_same(retrieve(queries, wanted, gallery[order], own[order], ks=KS), expected)


@pytest.mark.parametrize("factor", [1e-25, 1e-3, 1e25])
def test_length_does_not_matter(factor: float) -> None:
    gallery, queries, own, wanted = features(300), features(20, 1), labels(300, 4), labels(20, 4)
    expected = retrieve(queries, wanted, gallery, own, ks=KS)
    assert_same(retrieve(queries / factor, wanted, gallery * factor, own, ks=KS), expected)


def test_input_is_not_changed_and_may_be_half() -> None:
    gallery, own = features(50).half(), labels(50, 3)
    before = gallery.clone()
    found = retrieve(gallery[:5], own[:5], gallery, own)
    assert torch.equal(gallery, before)
    assert found.recall[1].tolist() == [1.0] * 5


def test_wrong_data() -> None:
    items, own = features(6), torch.arange(6) // 2

    def expect(message: str, *given: torch.Tensor, **settings: object) -> None:
        kind = ConfigError if settings.keys() & {"ks", "chunk"} else DataError
        with pytest.raises(kind, match=message):
            retrieve(*given, **settings)  # type: ignore[arg-type]

    bad, zero = items.clone(), items.clone()
    bad[2, 3], zero[4] = torch.nan, 0
    expect("gallery features are NaN", items, own, bad, own)
    expect("query features are NaN", items / 0, own, items, own)
    expect("1 gallery features have no direction.*row 4, is 0", items, own, zero, own)
    expect("there are 0 queries", items[:0], own[:0], items, own)
    expect("6 and 2 labels", items, own, items, own[:2])
    expect(r"\(6, 8\)", items, own, items[:, :8], own)
    expect("2 of 6 queries have no image", items, own, items[:4], own[:4])
    expect("0 gallery features", items, own, items[:0], own[:0])
    alone = torch.arange(6)
    expect("6 of 6", items, alone, items, alone, positions=alone)
    expect("k is 0", items, own, items, own, ks=(1, 0))
    expect("chunk is 0", items, own, items, own, chunk=0)


def test_features_of_a_network_that_is_being_trained() -> None:
    features = torch.randn(6, 4, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    found = retrieve(features, labels, features, labels, positions=torch.arange(6))
    assert not found.average_precision.requires_grad


def test_equal_images_tie_where_cosines_are_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.9 + 0.1 * torch.rand(200, 768, generator=generator)
    gallery, labels = images.repeat(2, 1), torch.arange(400)  # each has a twin of another label
    found = retrieve(images, torch.arange(200), gallery, labels)
    torch.testing.assert_close(found.recall[1], torch.full((200,), 0.5, dtype=torch.float64))
