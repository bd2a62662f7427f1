import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.features.knn import knn_predict


def data(seed=0, train=300, test=80, width=12, classes=5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (train,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    features = centres[labels] + 1.5 * torch.randn(train, width, generator=generator)
    queries = centres[torch.arange(test) % classes]
    return features * 7, labels, queries + 1.5 * torch.randn(test, width, generator=generator)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (7, 1.0), (300, 0.2)])
def test_agrees_with_sklearn(k, temperature):
    features, labels, queries = data()
    reference = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(features.double().numpy(), labels.numpy())
    expected = reference.predict(queries.double().numpy())
    found = knn_predict(features, labels, queries, num_classes=5, k=k, temperature=temperature)
    assert found.tolist() == expected.tolist()


def test_scale_and_chunks_do_not_matter():
    features, labels, queries = data()
    expected = knn_predict(features, labels, queries, num_classes=5)
    scaled = features * torch.rand(len(features), 1).add(0.1)
    for chunk, gallery_chunk in [(1, 10), (7, 299), (80, 300)]:
        found = knn_predict(
            scaled, labels, queries / 3, num_classes=5, chunk=chunk, gallery_chunk=gallery_chunk
        )
        assert found.tolist() == expected.tolist()


def test_half_precision_features_and_tiny_temperature():
    features, labels, queries = data()
    expected = knn_predict(features, labels, queries, num_classes=5)
    found = knn_predict(features.half(), labels, queries.half(), num_classes=5)
    assert (found == expected).double().mean() > 0.95
    nearest = knn_predict(features, labels, queries, num_classes=5, k=1)
    sharp = knn_predict(features, labels, queries, num_classes=5, temperature=1e-6)
    assert (sharp == nearest).double().mean() > 0.95


def test_more_neighbours_than_samples():
    features, labels, queries = data(train=5)
    assert knn_predict(features, labels, queries, num_classes=5, k=20).shape == (80,)


@pytest.mark.parametrize("setting", ["k", "temperature", "chunk", "gallery_chunk"])
def test_settings_must_be_positive(setting):
    features, labels, queries = data()
    with pytest.raises(ConfigError, match=f"{setting} is 0"):
        knn_predict(features, labels, queries, num_classes=5, **{setting: 0})


def test_wrong_data():
    features, labels, queries = data()
    with pytest.raises(DataError, match="300 features have 299 labels"):
        knn_predict(features, labels[1:], queries, num_classes=5)
    with pytest.raises(DataError, match="do not fit"):
        knn_predict(features, labels, queries[:, 1:], num_classes=5)
    with pytest.raises(DataError, match="nothing to compare with"):
        knn_predict(features[:0], labels[:0], queries, num_classes=5)
    with pytest.raises(DataError, match="NaN"):
        knn_predict(features, labels, queries * float("nan"), num_classes=5)
