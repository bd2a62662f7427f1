"""Exact nearest neighbours by cosine similarity, in bounded memory, and classification by them."""

from typing import Any

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError

_CHUNK = 512  # queries at a time
_GALLERY_CHUNK = 16_384  # gallery vectors at a time
_SAFE = 1e-12, 1e12  # lengths whose squares float32 holds


def nearest_neighbours(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    *,
    exclude_self: bool = False,
) -> tuple[Tensor, Tensor]:
    """Find the k gallery vectors that are most similar to each query.

    The similarity matrix is never stored as a whole, so memory suffices for millions of rows.

    Args:
        queries: (M, D) features of any norm.
        gallery: (N, D) features to search, on the same device.
        k: Neighbours of each query, from 1 to N (N - 1 with ``exclude_self``).
        exclude_self: The queries are the gallery, and no row is its own neighbour.

    Returns:
        Cosine similarities (float32) and indices into the gallery (int64), both (M, k), most
        similar first. A vector of zeros has similarity 0 to everything.

    Raises:
        ConfigError: If ``k`` is out of range, or ``exclude_self`` does not apply.
        DataError: If shapes do not fit, features are not finite, or the gallery is empty.
    """
    check_shapes(queries, gallery)
    if not len(gallery):
        raise DataError("there is nothing to compare with: no training or gallery features.")
    if exclude_self and len(queries) != len(gallery):
        raise ConfigError(
            f"exclude_self needs the gallery as queries, but they have {len(gallery)} and "
            f"{len(queries)} rows."
        )
    largest = len(gallery) - exclude_self
    if not 1 <= k <= largest:
        raise ConfigError(f"k={k}: from 1 to {largest} neighbours can be found in this gallery.")
    unit = _unit(queries, queries.new_empty(queries.shape, dtype=torch.float32))
    cosines = unit.new_full((len(queries), k), -torch.inf)
    indices = torch.zeros((len(queries), k), dtype=torch.long, device=queries.device)
    # Buffers are reused, since allocating memory takes longer than what is computed in it.
    columns = min(_GALLERY_CHUNK, len(gallery))
    parts = unit.new_empty(columns, gallery.shape[1])
    products = unit.new_empty(min(_CHUNK, len(queries)) * columns)
    for start in range(0, len(gallery), _GALLERY_CHUNK):
        part = _unit(gallery[start : start + _GALLERY_CHUNK], parts)
        for first in range(0, len(queries), _CHUNK):
            rows = slice(first, first + _CHUNK)
            query = unit[rows]
            similarity = products[: len(query) * len(part)].view(len(query), len(part))
            torch.mm(query, part.T, out=similarity)
            if exclude_self:
                similarity.diagonal(first - start).fill_(-torch.inf)
            found = similarity.topk(min(k, len(part)), dim=1)
            candidates = torch.cat([cosines[rows], found.values], dim=1)
            places = torch.cat([indices[rows], found.indices + start], dim=1)
            cosines[rows], order = candidates.topk(k, dim=1)
            indices[rows] = places.gather(1, order)
    return cosines, indices


def knn_votes(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Let the nearest neighbours vote (weighted k-NN; Wu et al., 2018, arXiv 1805.01978).

    The k nearest by cosine vote, each with weight ``exp(cosine / temperature)``.

    Args:
        train_features: (N, D) of any norm.
        train_labels: (N,) integers in [0, `num_classes`).
        test_features: (M, D), on the same device.
        num_classes: Number of classes.
        k: Number of neighbours; all samples if there are fewer.
        temperature: How fast a vote fades with distance.

    Returns:
        (M, `num_classes`) float64 sums of votes, in units of the nearest neighbour's.

    Raises:
        ConfigError: If a setting is not positive.
        DataError: If shapes do not fit, features are not finite, or there are none.
    """
    for name, value in (("k", k), ("temperature", temperature)):
        if not value > 0:
            raise ConfigError(f"{name} is {value}, expected a positive number.")
    if train_labels.shape != train_features.shape[:1]:
        raise DataError(f"{len(train_features)} features have {len(train_labels)} labels.")
    k = min(k, len(train_features))
    cosines, indices = nearest_neighbours(test_features, train_features, k)
    votes = torch.zeros(len(test_features), num_classes, dtype=torch.float64, device=indices.device)
    # Relative to the nearest, so that exp stays in range; no prediction changes.
    weights = ((cosines - cosines[:, :1]).double() / temperature).exp()
    votes.scatter_add_(1, train_labels[indices].long(), weights)
    return votes


def knn_predict(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, **settings: Any
) -> Tensor:
    """Return the (M,) labels with the most votes; the arguments are those of :func:`knn_votes`.

    Ties go to the smallest label.
    """
    return knn_votes(train_features, train_labels, test_features, **settings).argmax(1)


def check_shapes(queries: Tensor, gallery: Tensor) -> None:
    """Raise a `DataError` if queries and gallery are not (M, D) and (N, D)."""
    if gallery.ndim != 2 or queries.ndim != 2 or gallery.shape[1] != queries.shape[1]:
        raise DataError(
            f"queries {tuple(queries.shape)} and gallery {tuple(gallery.shape)} do not fit: "
            "expected (M, D) and (N, D)."
        )


def _unit(features: Tensor, out: Tensor) -> Tensor:
    """Write features (N, D) as float32 of length 1 into the first rows of `out`."""
    features = features.detach().float()
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    if not ((lengths > _SAFE[0]) & (lengths < _SAFE[1])).all():
        if not features.isfinite().all():
            raise DataError("features are not finite: NaN or infinite.")
        lengths = torch.linalg.vector_norm(features.double(), dim=1, keepdim=True)
        lengths = lengths.masked_fill_(lengths == 0, 1)
    return torch.div(features, lengths, out=out[: len(features)])
