"""Exact nearest neighbours by cosine, in bounded memory and little more time than the product."""

import torch
from torch import Tensor

from cassle_zoo.common.errors import DataError

_CHUNK = 512  # queries at a time
_GALLERY_CHUNK = 16_384  # gallery vectors at a time
_SHORTEST = 1e-12


def nearest_by_cosine(
    gallery: Tensor,
    queries: Tensor,
    k: int,
    *,
    chunk: int = _CHUNK,
    gallery_chunk: int = _GALLERY_CHUNK,
    exclude_self: bool = False,
) -> tuple[Tensor, Tensor]:
    """Find the k nearest gallery vectors of each query.

    Args:
        gallery: (N, D).
        queries: (M, D), on the same device.
        k: How many; all there are if there are fewer.
        chunk: Queries at a time; with `gallery_chunk` it bounds the memory.
        gallery_chunk: Gallery vectors at a time.
        exclude_self: The queries are the gallery, and none is its own neighbour.

    Returns:
        Cosines (float32) and gallery indices, both (M, k), nearest first. A vector of zeros has
        cosine 0 with everything.

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
    k = min(k, len(gallery) - exclude_self)
    unit = _unit(queries, queries.new_empty(queries.shape, dtype=torch.float32))
    cosines = unit.new_full((len(queries), k), -torch.inf)
    indices = torch.zeros((len(queries), k), dtype=torch.long, device=queries.device)
    # Buffers, since fresh memory costs more time than what is done in it.
    columns = min(gallery_chunk, len(gallery))
    parts = unit.new_empty(columns, gallery.shape[1])
    products = unit.new_empty(min(chunk, len(queries)) * columns)
    for start in range(0, len(gallery), gallery_chunk):
        part = _unit(gallery[start : start + gallery_chunk], parts)
        for first in range(0, len(queries), chunk):
            rows = slice(first, first + chunk)
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


def _unit(features: Tensor, out: Tensor) -> Tensor:
    """Write features (N, D) as float32 of length 1 into the first rows of `out`."""
    features = features.detach().float()
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    if not lengths.isfinite().all():
        if not features.isfinite().all():
            raise DataError("features are not finite: NaN or infinite.")
        # Only the squares overflowed.
        lengths = torch.linalg.vector_norm(features.double(), dim=1, keepdim=True).float()
    return torch.div(features, lengths.clamp_min_(_SHORTEST), out=out[: len(features)])
