"""Weighted k-nearest-neighbour classification (the protocol of arXiv 1805.01978)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cassle_zoo.errors import ConfigError


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Classify by the vote of the `k` most similar training features, weighted exp(cosine / T).

    Args:
        train_features: (N, D).
        train_labels: (N,) int64 in [0, num_classes).
        test_features: (M, D).
        num_classes: Number of classes.
        k: Neighbours that vote; all N if there are fewer.
        temperature: T of the weights.
        chunk: Test features compared at a time; bounds the memory, not the result.

    Returns:
        (M,) int64 predicted labels; of tied classes the one with the smallest label.

    Raises:
        ConfigError: If `k` or `temperature` is not positive.
    """
    if k < 1 or not temperature > 0:
        raise ConfigError(f"k must be at least 1 and temperature positive, got {k}, {temperature}.")
    gallery = F.normalize(train_features.float(), dim=1)
    predictions = []
    for queries in test_features.split(chunk):
        cosine = F.normalize(queries.float(), dim=1) @ gallery.T
        top, neighbours = cosine.topk(min(k, len(gallery)), dim=1)
        votes = torch.zeros(len(queries), num_classes)
        votes.scatter_add_(1, train_labels[neighbours], (top / temperature).exp())
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)
