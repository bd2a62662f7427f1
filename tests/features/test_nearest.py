import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.features import nearest
from cassle_zoo.features.nearest import knn_predict, nearest_neighbours


def features(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def in_chunks(monkeypatch: pytest.MonkeyPatch, queries: int, gallery: int) -> None:
    monkeypatch.setattr(nearest, "_CHUNK", queries)
    monkeypatch.setattr(nearest, "_GALLERY_CHUNK", gallery)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize(("chunk", "gallery_chunk"), [(33, 50), (1, 7), (80, 2), (512, 16_384)])
def test_agrees_with_the_whole_matrix(
    chunk: int, gallery_chunk: int, exclude_self: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_chunks(monkeypatch, chunk, gallery_chunk)
    gallery = features(300) * torch.rand(300, 1).add(0.1)
    queries = gallery if exclude_self else features(80, seed=1)
    full = cosine_similarity(queries[:, None].double(), gallery[None].double(), dim=2)
    if exclude_self:
        full.fill_diagonal_(-2)
    expected = full.topk(9, dim=1)
    cosine, index = nearest_neighbours(queries, gallery, 9, exclude_self=exclude_self)
    # Cosines that are equal but for rounding may stand in either order.
    torch.testing.assert_close(cosine.double(), expected.values, atol=1e-6, rtol=0)
    torch.testing.assert_close(full.gather(1, index), expected.values, atol=1e-6, rtol=0)
    assert all(len(set(row)) == 9 for row in index.tolist())


def test_as_many_neighbours_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    in_chunks(monkeypatch, 512, 2)
    gallery = features(4)
    assert nearest_neighbours(features(3), gallery, 4)[0].shape == (3, 4)
    cosine, index = nearest_neighbours(gallery, gallery, 3, exclude_self=True)
    assert cosine.isfinite().all()
    assert all(own not in row for own, row in enumerate(index.tolist()))


@pytest.mark.parametrize("scale", [1e38, 1e25, 1e-13, 1e-30])
def test_squares_beyond_the_range_of_float32(scale: float) -> None:
    gallery = features(20)
    gallery /= gallery.abs().max()
    expected = nearest_neighbours(gallery, gallery, 3)
    cosine, index = nearest_neighbours(gallery * scale, gallery * (3 * scale), 3)
    torch.testing.assert_close(cosine, expected[0], atol=1e-5, rtol=0)
    assert torch.equal(index, expected[1])


@pytest.mark.parametrize("queries", [torch.ones(2, 11), torch.ones(12)])
def test_shapes_that_do_not_fit(queries: Tensor) -> None:
    with pytest.raises(DataError, match=r"queries \(.*gallery \(5, 12\) do not fit"):
        nearest_neighbours(queries, features(5), 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    broken = features(5)
    broken[3, 2] = value
    for gallery, queries in ((broken, features(2)), (features(2), broken)):
        with pytest.raises(DataError, match="not finite"):
            nearest_neighbours(queries, gallery, 1)


def test_features_of_a_network_that_is_being_trained() -> None:
    gallery = features(5).requires_grad_()
    cosine, _ = nearest_neighbours(gallery, gallery, 2)
    assert not cosine.requires_grad


def test_input_is_not_changed_and_may_be_half() -> None:
    items = features(6).half()
    before = items.clone()
    cosine, indices = nearest_neighbours(items, items, 1)
    assert torch.equal(items, before)
    assert indices.flatten().tolist() == list(range(6))
    torch.testing.assert_close(cosine, torch.ones(6, 1))


def test_zeros_are_similar_to_nothing() -> None:
    cosine, _ = nearest_neighbours(torch.zeros(1, 12), features(3), 3)
    assert torch.equal(cosine, torch.zeros(1, 3))


def test_no_queries() -> None:
    cosine, indices = nearest_neighbours(torch.zeros(0, 12), features(3), 2)
    assert indices.shape == cosine.shape == (0, 2)
    assert indices.dtype == torch.int64


@pytest.mark.parametrize(
    ("query", "items", "k", "exclude_self", "kind", "message"),
    [
        (features(2), features(3), 4, False, ConfigError, "k=4: from 1 to 3"),
        (features(3), features(3), 3, True, ConfigError, "k=3: from 1 to 2"),
        (features(2), features(3), 0, False, ConfigError, "k=0"),
        (features(2), features(3), 1, True, ConfigError, "exclude_self"),
        (features(2)[:, :4], features(3), 1, False, DataError, r"\(2, 4\)"),
        (features(2)[0], features(3), 1, False, DataError, r"\(12,\)"),
    ],
)
def test_wrong_arguments(
    query: Tensor,
    items: Tensor,
    k: int,
    exclude_self: bool,
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        nearest_neighbours(query, items, k, exclude_self=exclude_self)


def data(seed=0, train=300, test=80, width=12, classes=5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (train,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    features = centres[labels] + 1.5 * torch.randn(train, width, generator=generator)
    queries = centres[torch.arange(test) % classes]
    return features * 7, labels, queries + 1.5 * torch.randn(test, width, generator=generator)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (7, 1.0), (300, 0.2)])
def test_votes_agree_with_sklearn(k, temperature):
    features, labels, queries = data()
    reference = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(features.double().numpy(), labels.numpy())
    expected = reference.predict(queries.double().numpy())
    found = knn_predict(features, labels, queries, num_classes=5, k=k, temperature=temperature)
    assert found.tolist() == expected.tolist()
    small = knn_predict(
        features, labels.byte(), queries, num_classes=5, k=k, temperature=temperature
    )
    assert torch.equal(small, found)


def test_votes_do_not_depend_on_scale_and_chunks(monkeypatch):
    features, labels, queries = data()
    expected = knn_predict(features, labels, queries, num_classes=5)
    scaled = features * torch.rand(len(features), 1).add(0.1)
    for chunk, gallery_chunk in [(1, 10), (7, 299), (80, 300)]:
        in_chunks(monkeypatch, chunk, gallery_chunk)
        found = knn_predict(scaled, labels, queries / 3, num_classes=5)
        assert found.tolist() == expected.tolist()


def test_votes_of_half_precision_features_and_at_tiny_temperatures():
    features, labels, queries = data()
    expected = knn_predict(features, labels, queries, num_classes=5)
    found = knn_predict(features.half(), labels, queries.half(), num_classes=5)
    assert (found == expected).double().mean() > 0.95
    by_one = knn_predict(features, labels, queries, num_classes=5, k=1)
    sharp = knn_predict(features, labels, queries, num_classes=5, temperature=1e-6)
    assert (sharp == by_one).double().mean() > 0.95


def test_votes_of_more_neighbours_than_samples():
    features, labels, queries = data(train=5)
    assert knn_predict(features, labels, queries, num_classes=5, k=20).shape == (80,)


@pytest.mark.parametrize("setting", ["k", "temperature"])
def test_settings_of_votes_must_be_positive(setting):
    features, labels, queries = data()
    with pytest.raises(ConfigError, match=f"{setting} is 0"):
        knn_predict(features, labels, queries, num_classes=5, **{setting: 0})


def test_wrong_votes():
    features, labels, queries = data()
    with pytest.raises(DataError, match="300 features have 299 labels"):
        knn_predict(features, labels[1:], queries, num_classes=5)
    with pytest.raises(DataError, match="do not fit"):
        knn_predict(features, labels, queries[:, 1:], num_classes=5)
    with pytest.raises(DataError, match="nothing to compare with"):
        knn_predict(features[:0], labels[:0], queries, num_classes=5)
    with pytest.raises(DataError, match="NaN"):
        knn_predict(features, labels, queries * float("nan"), num_classes=5)
