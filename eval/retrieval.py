"""Retrieval by cosine: is the right picture the nearest one?"""

from torch import Tensor

from cassle_zoo.errors import DataError
from cassle_zoo.eval.knn import nearest_by_cosine


def recall_at_k(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    k: int = 1,
    chunk: int = 256,
    gallery_chunk: int = 65536,
) -> float:
    """Return the fraction of queries with their label among the k nearest of the gallery.

    Args:
        queries: (M, D) features.
        query_labels: (M,) integers.
        gallery: (N, D) features.
        gallery_labels: (N,) integers; every query's label must occur.
        k: How many neighbours count.
        chunk: Queries at a time; with `gallery_chunk` it bounds the memory.
        gallery_chunk: Gallery pictures at a time.

    Returns:
        Recall in [0, 1].

    Raises:
        DataError: If shapes do not fit, features are not finite, there are no queries, or a query
            has no counterpart in the gallery.
    """
    if query_labels.shape != queries.shape[:1] or gallery_labels.shape != gallery.shape[:1]:
        raise DataError(
            f"{len(queries)} queries and {len(gallery)} gallery features have "
            f"{len(query_labels)} and {len(gallery_labels)} labels."
        )
    if not len(queries):
        raise DataError("there are no queries.")
    missing = set(query_labels.tolist()) - set(gallery_labels.tolist())
    if missing:
        raise DataError(f"{len(missing)} query labels do not occur in the gallery.")
    _, nearest = nearest_by_cosine(gallery, queries, k, chunk=chunk, gallery_chunk=gallery_chunk)
    return float((gallery_labels[nearest] == query_labels[:, None]).any(1).double().mean())
