"""Weighted k-nearest-neighbour classification (Wu et al., 2018, arXiv 1805.01978)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cassle_zoo.errors import ConfigError, DataError


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 256,
    gallery_chunk: int = 65536,
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


def nearest_by_cosine(
    gallery: Tensor, queries: Tensor, k: int, *, chunk: int = 256, gallery_chunk: int = 65536
) -> tuple[Tensor, Tensor]:
    """Find the k nearest gallery vectors of each query, in bounded memory.

    Args:
        gallery: (N, D).
        queries: (M, D).
        k: How many; all N if there are fewer.
        chunk: Queries at a time.
        gallery_chunk: Gallery vectors at a time.

    Returns:
        Cosines and gallery indices, both (M, min(k, N)), nearest first.

    Raises:
        DataError: If shapes do not fit, features are not finite, or the gallery is empty.
    """
    if gallery.ndim != 2 or queries.ndim != 2 or gallery.shape[1] != queries.shape[1]:
        raise DataError(
            f"features {tuple(gallery.shape)} and {tuple(queries.shape)} do not fit: "
            "expected (N, D) and (M, D)."
        )
    if not len(gallery):
        raise DataError("there is nothing to compare with: no training or gallery features.")
    if not (torch.isfinite(gallery).all() and torch.isfinite(queries).all()):
        raise DataError("features are NaN or infinite.")
    k = min(k, len(gallery))
    best_cosine = torch.empty((len(queries), k), device=queries.device)
    best_index = torch.empty((len(queries), k), dtype=torch.long, device=queries.device)
    for rows in torch.arange(len(queries)).split(chunk):
        query = normalize(queries[rows].float(), dim=1)
        cosine = query.new_empty((len(rows), 0))
        index = best_index.new_empty((len(rows), 0))
        for start in range(0, len(gallery), gallery_chunk):
            part = normalize(gallery[start : start + gallery_chunk].float(), dim=1)
            found = (query @ part.T).topk(min(k, len(part)), dim=1)
            cosine = torch.cat([cosine, found.values], dim=1)
            index = torch.cat([index, found.indices + start], dim=1)
            cosine, order = cosine.topk(min(k, cosine.shape[1]), dim=1)
            index = index.gather(1, order)
        best_cosine[rows], best_index[rows] = cosine, index
    return best_cosine, best_index
