"""Weighted k-nearest-neighbour classification (Wu et al., 2018, arXiv 1805.01978)."""

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.features.nearest import nearest_by_cosine


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 512,
    gallery_chunk: int = 16_384,
) -> Tensor:
    """Predict labels: the k nearest by cosine vote, each with ``exp(cosine / temperature)``.

    Args:
        train_features: (N, D), of any length (normalised here).
        train_labels: (N,) integers in [0, `num_classes`).
        test_features: (M, D), on the same device.
        num_classes: Number of classes.
        k: Number of neighbours; all samples if there are fewer.
        temperature: How fast a vote fades with distance.
        chunk: Test samples at a time; with `gallery_chunk` it bounds the memory.
        gallery_chunk: Training samples at a time.

    Returns:
        (M,) predicted labels; the smallest of those with equal votes.

    Raises:
        ConfigError: If a setting is not positive.
        DataError: If shapes do not fit, features are not finite, or there are none.
    """
    settings = {"k": k, "temperature": temperature, "chunk": chunk, "gallery_chunk": gallery_chunk}
    for name, value in settings.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}, expected a positive number.")
    if train_labels.shape != train_features.shape[:1]:
        raise DataError(f"{len(train_features)} features have {len(train_labels)} labels.")
    similarity, indices = nearest_by_cosine(
        train_features, test_features, k, chunk=chunk, gallery_chunk=gallery_chunk
    )
    votes = torch.zeros(len(test_features), num_classes, dtype=torch.float64, device=indices.device)
    # Relative to the nearest, which changes no prediction, exp stays in range.
    votes.scatter_add_(
        1, train_labels[indices], ((similarity - similarity[:, :1]).double() / temperature).exp()
    )
    return votes.argmax(1)
