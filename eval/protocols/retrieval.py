"""Retrieval by cosine: recall@k, average precision over the full ranking, and galleries.

Both numbers are means over all orders of ties (McSherry & Najork, ECIR 2008), so they depend
neither on the order of the gallery nor on how sums were rounded.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cassle_zoo.common.config import Range
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import (
    EvalContext,
    EvalData,
    Outcome,
    Settings,
    Task,
    Whiten,
    check_distinct,
    whitened,
)
from cassle_zoo.eval.scores import Scores
from cassle_zoo.features.gallery import (
    GalleryItem,
    GalleryList,
    GalleryRow,
    contact_sheet,
    gallery_page,
)
from cassle_zoo.features.nearest import check_shapes, nearest_neighbours

TIE = 2.0**-22
"""Cosines no further apart are tied: in float32 they may be those of equal images."""

_SIMILARITIES = 2**27  # held at a time: 512 MB
_BLOCK = 1024  # gallery features in one matrix product: they stay in the cache
_FEW = 8  # limits for which counting is faster than sorting
_SELECTING = 4  # if fewer than one value in this many counts, selecting first pays
_SORTED = 2**16  # values sorted at a time: they stay in the cache
_SAFE = 1e-12, 1e12  # lengths whose squares float32 holds
_SHORTEST, _LONGEST = 1e-30, 1e30  # features that float32 products can hold
_SHEET_ROWS = 8

_Integers = NDArray[np.int64]
_Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalScores:
    """Scores of each query, as float64 values in [0, 1].

    Attributes:
        recall: By k, (M,): probability of a relevant image among the k nearest; 0 or 1 without
            ties.
        average_precision: (M,), mean of the precisions at the ranks of the relevant images.
    """

    recall: dict[int, Tensor]
    average_precision: Tensor


def retrieve(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    ks: Sequence[int] = (1,),
    positions: Tensor | None = None,
    chunk: int | None = None,
) -> RetrievalScores:
    """Rank the gallery for every query by cosine; images with the query's label are relevant.

    Average precision is the mean, over all relevant images of the gallery, of the fraction of
    relevant images up to their rank: neither interpolated nor cut off.

    Args:
        queries: (M, D) features.
        query_labels: (M,) integers.
        gallery: (N, D) features.
        gallery_labels: (N,) integers.
        ks: The k of recall@k, at least 1.
        positions: (M,) position of each query in the gallery, or -1; it is left out of its own
            results.
        chunk: Queries at a time; by default 512 MB of similarities. It changes the scores by no
            more than rounding.

    Returns:
        Scores of every query.

    Raises:
        ConfigError: If a setting is not positive.
        DataError: If shapes do not fit, there are no queries, features are not finite or have no
            direction, or a query has no relevant image in the gallery.
    """
    chunk = chunk if chunk is not None else max(1, _SIMILARITIES // max(1, len(gallery)))
    for name, value in [("chunk", chunk), *(("k", k) for k in ks)]:
        if value < 1:
            raise ConfigError(f"{name} is {value}, expected at least 1.")
    queries, gallery = queries.detach(), gallery.detach()
    _check(queries, query_labels, gallery, gallery_labels)
    relevant = _relevant(query_labels, gallery_labels, positions)
    unit = queries.float() / _lengths(queries, "query")[:, None]
    scale = 1 / _lengths(gallery, "gallery")
    buffer = torch.empty((min(chunk, len(queries)), len(gallery)), device=gallery.device)
    precisions: list[float] = []
    best: list[_Integers] = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # NumPy sorts without the GIL
        for start in range(0, len(queries), chunk):
            similarity = _similarity(unit[start : start + chunk], gallery, scale, buffer)
            scores = pool.map(_score, similarity, relevant[start : start + chunk])
            for precision, nearest in scores:
                precisions.append(precision)
                best.append(nearest)
    counts = torch.from_numpy(np.stack(best, axis=1))
    return RetrievalScores(
        recall={k: _recall(counts, k) for k in ks},
        average_precision=torch.tensor(precisions, dtype=torch.float64),
    )


def _check(queries: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor) -> None:
    check_shapes(queries, gallery)
    if query_labels.shape != queries.shape[:1] or gallery_labels.shape != gallery.shape[:1]:
        raise DataError(
            f"{len(queries)} queries and {len(gallery)} gallery features have "
            f"{len(query_labels)} and {len(gallery_labels)} labels."
        )
    if not len(queries) or not len(gallery):
        raise DataError(f"there are {len(queries)} queries and {len(gallery)} gallery features.")


def _relevant(
    query_labels: Tensor, gallery_labels: Tensor, positions: Tensor | None
) -> list[tuple[_Integers, int]]:
    """Return every query's gallery indices: those with its label, and its own (-1 for none)."""
    labels = gallery_labels.cpu().numpy()
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    members = dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))
    own = [-1] * len(query_labels) if positions is None else positions.tolist()
    found, alone = [], 0
    for label, position in zip(query_labels.tolist(), own, strict=True):
        same = members.get(label, order[:0])
        # `_score` leaves out a query that is in the gallery: a copy of a large class for each query
        # would not fit into memory.
        itself = position >= 0 and int(labels[position]) == label
        alone += len(same) == int(itself)
        found.append((same, position))
    if alone:
        raise DataError(
            f"{alone} of {len(found)} queries have no image with their label in the gallery."
        )
    return found


def _lengths(features: Tensor, name: str) -> Tensor:
    """Return Euclidean lengths (N,) as float32, computed so that no square overflows."""
    length = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK].float()
        found = torch.linalg.vector_norm(block, dim=1)
        if not ((found > _SAFE[0]) & (found < _SAFE[1])).all():
            found = torch.linalg.vector_norm(block.double(), dim=1)
        length[start : start + _BLOCK] = found
    if not length.isfinite().all():
        raise DataError(f"{name} features are NaN or infinite.")
    wrong = (length < _SHORTEST) | (length > _LONGEST)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"{int(wrong.sum())} {name} features have no direction that cosines could compare: "
            f"the length of the first, row {row}, is {float(length[row]):g}."
        )
    return length.float()


def _similarity(unit: Tensor, gallery: Tensor, scale: Tensor, buffer: Tensor) -> _Floats:
    """Return cosines (m, N), held in `buffer`."""
    cosine = buffer[: len(unit)]
    # Scaled from a block of its own: rows of `buffer` are too far apart for the cache.
    products = torch.empty((len(unit), _BLOCK), device=buffer.device)
    for start in range(0, len(gallery), _BLOCK):
        part = gallery[start : start + _BLOCK].float()
        block = products[:, : len(part)]
        torch.mm(unit, part.T, out=block)
        torch.mul(block, scale[start : start + _BLOCK], out=cosine[:, start : start + len(part)])
    return cosine.cpu().numpy()


def _score(row: _Floats, relevant: tuple[_Integers, int]) -> tuple[float, _Integers]:
    """Return the average precision of a query, and the counts that its recall depends on.

    The counts (4,) are the wrong and the relevant images before the best relevant one, then those
    tied with it (including itself). The cosines (N,) of `row` are overwritten.
    """
    same, position = relevant
    if position >= 0:
        same = same[same != position]
    right = np.sort(row[same])
    row[same] = -np.inf
    if position >= 0:
        row[position] = -np.inf
    tied = right - np.float32(TIE)
    before = np.nextafter(right + np.float32(TIE), np.float32(np.inf))
    limits = np.concatenate([tied, before])
    wrong_tied, wrong_before = np.split(_at_least(row, limits), 2)
    right_tied, right_before = np.split(_at_least(right.copy(), limits), 2)
    counts = np.stack(
        [wrong_before, right_before, wrong_tied - wrong_before, right_tied - right_before]
    )
    nearest = counts[:, -1].copy()  # a view would hold the counts of all relevant images
    return _average_precision(torch.from_numpy(counts)), nearest


def _at_least(values: _Floats, limits: _Floats) -> _Integers:
    """Count the values that reach each limit; the first limit is the lowest. Sorts in place."""
    if len(limits) <= _FEW:
        return np.array([np.count_nonzero(values >= limit) for limit in limits])
    ahead = values >= limits[0]
    if _SELECTING * np.count_nonzero(ahead) < len(values):
        values = np.compress(ahead, values)
    found = np.zeros(len(limits), dtype=np.int64)
    for part in np.split(values, range(_SORTED, len(values), _SORTED)):
        part.sort()
        found += len(part) - np.searchsorted(part, limits)
    return found


def _average_precision(counts: Tensor) -> float:
    """Return the expected average precision, from (4, R) counts as of `_score`.

    Among n tied images, r of them relevant, that follow a others, b of them relevant: a relevant
    one is equally likely at every rank a + i, and up to it b + 1 + (i - 1)(r - 1) / (n - 1)
    relevant ones are expected. The sums of 1 / (a + i) are differences of digamma.
    """
    wrong_before, right_before, wrong_tied, right_tied = counts.double()
    before, tied = wrong_before + right_before, wrong_tied + right_tied
    harmonic = torch.where(
        tied == 1,
        1 / (before + 1),
        torch.digamma(before + tied + 1) - torch.digamma(before + 1),
    )
    slope = (right_tied - 1) / (tied - 1).clamp(min=1)
    sums = (right_before + 1) * harmonic + slope * (tied - (before + 1) * harmonic)
    return float((sums / tied).mean())


def _recall(counts: Tensor, k: int) -> Tensor:
    """Return the chance (M,) that a relevant image is among the k nearest, from (4, M) counts."""
    wrong_before, _, wrong_tied, right_tied = counts.double()
    missed = torch.ones_like(wrong_before)
    for place in range(k):
        # How many of the tied ones took the places before this one, all of them wrong.
        taken = place - wrong_before
        chance = (wrong_tied - taken) / (wrong_tied + right_tied - taken).clamp(min=1)
        missed *= torch.where(taken < 0, 1.0, chance.clamp(min=0))
    return 1 - missed


def _sheet(title: str, found: Sequence[GalleryRow]) -> bytes:
    buffer = io.BytesIO()
    shown = found[:: -(-len(found) // _SHEET_ROWS)]
    shown = [replace(row, lists=row.lists[:1]) for row in shown]  # the page has the others, too
    contact_sheet(title, shown, marked=True).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _positions(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return the position of each query in the gallery, or -1."""
    place = {index: position for position, index in enumerate(gallery.tolist())}
    return torch.tensor([place.get(index, -1) for index in queries.tolist()])


def _shown(data: EvalData, task: Task, index: int, cosine: float = 0.0) -> GalleryItem:
    name = data.name_of(index)
    return GalleryItem(
        image=data.images[index][0],
        name=f"{name}, {data.captions[index]}" if data.captions else name,
        label=task.classes[int(task.targets[index])],
        cosine=cosine,
    )


@dataclass(frozen=True, kw_only=True)
class Retrieval(Settings):
    """Retrieval by cosine: recall@k, mean average precision, and galleries.

    Attributes:
        ks: The k of recall@k.
        classification: Gallery of the test images of classification tasks: the training and
            validation images, the other test images, or none to skip these tasks.
        examples: Number of queries in the gallery of a task, evenly spaced; 0 for no galleries.
        shown: Number of results to show for each.
        whiten: Number of whitened principal components to compare, fitted without labels to the
            training and validation data of classification tasks, or else to the galleries; or
            the file of a whitening that `cassle-zoo whiten` wrote, or `model` for the one in the
            model's folder. By default the features are not whitened.
    """

    ks: Annotated[tuple[int, ...], Range(1)] = (1, 5, 10)
    classification: Literal["train", "test", "none"] = "train"
    examples: Annotated[int, Range(0)] = 40
    shown: Annotated[int, Range(1)] = 8
    whiten: Whiten = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        check_distinct("ks", self.ks)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `recall@k` and `mAP` of every retrieval and classification task.

        Raises:
            ConfigError: If `whiten` is more than the width of the features.
            DataError: If there is only one class, queries have nothing to find, or there are
                too few images to whiten.
        """
        data = context.data
        tasks = (
            data.tasks_of("retrieval")
            if self.classification == "none"
            else data.tasks_of("retrieval", "classification")
        )
        features, whitening = whitened(context, self.whiten)
        metrics, protocol, files, rows = {}, self._protocol(whitening), {}, []
        for task in tasks:
            queries, gallery, left_out = self._sides(task)
            if len(gallery) and len(task.targets[torch.cat([queries, gallery])].unique()) == 1:
                raise DataError(
                    f"task {task.name}: all images are of one class, so that every result is "
                    "right; two are needed."
                )
            positions = _positions(queries, gallery)
            # A query does not find itself.
            others = len(gallery) - int((positions >= 0).all())
            beyond = [f"recall@{k}" for k in self.ks if k > others]
            if beyond:
                protocol[f"{task.name}, {' and '.join(beyond)}"] = (
                    f"of all {others} images there are to find"
                )
            if left_out:
                protocol[f"{task.name}, left out"] = (
                    f"{left_out} of the queries, without another of their class"
                )
            scores = retrieve(
                features[queries],
                task.targets[queries],
                features[gallery],
                task.targets[gallery],
                ks=self.ks,
                positions=positions,
            )
            recalls = {f"recall@{k}": scores.recall[k] for k in self.ks}
            values = {**recalls, "mAP": scores.average_precision}
            rows.append(Scores(task=task.name, unit="query", rows=queries, values=values))
            metrics[task.name] = rows[-1].means()
            if self.examples:
                numbers = (f"{name} {100 * v:.1f} %" for name, v in metrics[task.name].items())
                sides = f"{len(queries)} queries among {len(gallery)} images"
                spaces = {"": features}
                if whitening:
                    spaces = {"whitened": features, "raw": context.features}
                found = self._examples(context.data, spaces, task, queries, gallery)
                title = f"{task.name} of {data.name}, {context.source.name}"
                text = f"{', '.join(numbers)} of {sides}; {len(found)} queries are shown."
                if whitening:
                    text += f" Above: {whitening}; raw below."
                files[f"{task.name}.html"] = gallery_page(
                    title, found, summary=text, marked=True
                ).encode()
                files[f"{task.name}.png"] = _sheet(title, found)
        return Outcome(metrics=metrics, protocol=protocol, files=files, scores=tuple(rows))

    def _protocol(self, whitening: str) -> dict[str, str]:
        rule = (
            "cosine; relevant is what has the query's label; recall@k: one of them is among the k "
            "nearest; mAP: average precision over the whole ranking; both are means over all "
            "orders of ties"
        )
        if whitening:
            rule += f"; {whitening}"
        sides = {
            "train": "query test, gallery train + validation",
            "test": "query test, gallery all other test images",
        }
        where = sides.get(self.classification)
        return {"retrieval": rule} | ({"retrieval of classes": where} if where else {})

    def _sides(self, task: Task) -> tuple[Tensor, Tensor, int]:
        """Return indices of queries and gallery, and how many queries were left out."""
        splits = task.splits
        if task.kind == "retrieval":
            return splits["query"], splits["gallery"], 0
        test = splits["test"]
        if self.classification == "train":
            return test, torch.cat([splits["train"], splits["val"]]), 0
        labels = task.targets[test]
        shared = torch.bincount(labels)[labels] > 1
        return test[shared], test, int((~shared).sum())

    def _examples(
        self,
        data: EvalData,
        spaces: dict[str, Tensor],
        task: Task,
        queries: Tensor,
        gallery: Tensor,
    ) -> list[GalleryRow]:
        """Find the nearest images of some queries, by caption of the feature space."""
        count = min(self.examples, len(queries))
        chosen = queries[torch.arange(count) * len(queries) // count]
        k = min(self.shown + 1, len(gallery))
        rows: list[list[GalleryList]] = [[] for _ in range(count)]
        for title, features in spaces.items():
            cosines, places = nearest_neighbours(features[chosen], features[gallery], k)
            for row, query, own, indices in zip(
                rows, chosen.tolist(), cosines, gallery[places], strict=True
            ):
                others = [
                    _shown(data, task, index, cosine)
                    for index, cosine in zip(indices.tolist(), own.tolist(), strict=True)
                    if index != query
                ]
                row.append(GalleryList(title=title, found=others[: self.shown]))
        return [
            GalleryRow(query=_shown(data, task, query), lists=row)
            for query, row in zip(chosen.tolist(), rows, strict=True)
        ]
