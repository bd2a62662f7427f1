"""Nearest neighbours and retrieval in a million features, beside the bare blocked product."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.speed.timing import Check, Row, medians, take_turns, times_faster
from cassle_zoo.common.devices import peak_bytes
from cassle_zoo.eval.protocols.retrieval import retrieve
from cassle_zoo.features.nearest import knn_predict, nearest_neighbours

GALLERY, WIDTH, QUERIES, CLASSES, K = 1_000_000, 512, 512, 10_000, 20
BLOCK = 16_384  # gallery rows in one product
GIB = 2**30


def measure(rounds: int) -> Row:
    """Measure the searches; the features alone take 1.9 GiB."""
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(GALLERY, WIDTH, generator=generator)
    queries = torch.randn(QUERIES, WIDTH, generator=generator)
    labels = torch.arange(GALLERY) % CLASSES
    query_labels = torch.arange(QUERIES)
    buffer = torch.empty(QUERIES, BLOCK)

    def bare() -> None:
        for start in range(0, GALLERY, BLOCK):
            part = gallery[start : start + BLOCK]
            torch.mm(queries, part.T, out=buffer[:, : len(part)])

    contestants: dict[str, Callable[[], Any]] = {
        "product": bare,
        "k-NN": lambda: knn_predict(gallery, labels, queries, num_classes=CLASSES, k=K),
        "neighbours": lambda: nearest_neighbours(queries, gallery, K),
        "retrieval": lambda: retrieve(queries, query_labels, gallery, labels),
    }
    seconds = take_turns(contestants, min(rounds, 3))
    peak = peak_bytes(torch.device("cpu")) / GIB
    searches = [name for name in contestants if name != "product"]
    return Row(
        title=f"{QUERIES} queries against {GALLERY:,} x {WIDTH} features",
        amounts=medians(seconds),
        checks=[
            *(
                Check(
                    f"{name}, times the bare product",
                    times_faster(seconds, "product", name),
                    at_most=1.5,
                )
                for name in searches
            ),
            Check("peak memory, features included, GiB", peak, at_most=4),
        ],
        seconds=seconds,
    )
