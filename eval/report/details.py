"""Details behind a classification's numbers: classes, confusions, images, and maps of features.

Everything comes from the scores recorded beside the results; thumbnails are those recorded there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cassle_zoo.eval.report.evidence import Column, Row
from cassle_zoo.eval.report.glossary import describe
from cassle_zoo.eval.scores import ScoreFile, Scores
from cassle_zoo.features.explorer.layouts import check_layout

MapKind = Literal["pca", "umap"]

MAX_MATRIX = 20
"""Most classes in a confusion matrix; of more, only the commonest confusions are shown."""
SHOWN = 12
_CONFUSIONS = 12
_GOLDEN_ANGLE = 137.508
_FEWEST_POINTS = 4  # UMAP fails with fewer
_NEIGHBOURS = 15  # UMAP's default


def class_details(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    """Yield the details of each classification: one per task and protocol, as in the first row."""
    done: set[int] = set()
    for row in rows:
        found = {place: column.scores(row.task, row.metric) for place, column in enumerate(columns)}
        scored = {p: s for p, s in found.items() if s is not None and s.predicted is not None}
        if not scored or any(id(scores) in done for scores in scored.values()):
            continue
        done |= {id(scores) for scores in scored.values()}
        order = sorted(scored, key=lambda place: (place != row.best, place))
        first = scored[order[0]]
        same = [place for place in order if scored[place].pairs_with(first)]
        yield {
            "task": row.task,
            "label": describe(row.metric).label.partition(":")[0],
            "columns": [columns[place].label for place in same],
            "classes": _class_rows([scored[place] for place in same]),
            "disagreements": list(_disagreements(row, same, scored, columns)),
            "models": [
                {
                    "label": columns[place].label,
                    "mistakes": _mistakes(scored[place], columns[place]),
                    "wrong": int(scored[place].wrong.sum()),
                    "count": len(scored[place].rows),
                    **_confusion(scored[place]),
                }
                for place in order
            ],
        }


def _class_rows(scores: Sequence[Scores]) -> list[dict[str, Any]]:
    """Return the accuracy in each class, the hardest class of the first model first."""
    labels, _ = scores[0].answers
    found = []
    for label in labels.unique().tolist():
        own = labels == label
        rates = [float((~s.wrong[own]).double().mean()) for s in scores]
        name = _class_name(scores[0], label)
        found.append({"name": name, "count": int(own.sum()), "rates": rates})
    return sorted(found, key=lambda row: (row["rates"][0], row["name"]))


def _confusion(scores: Scores) -> dict[str, Any]:
    labels, predicted = scores.answers
    size = max(len(scores.classes), int(torch.stack([labels, predicted]).max()) + 1)
    cells = labels * size + predicted
    wrong, counts = cells[scores.wrong].unique(return_counts=True)
    pairs = []
    for place in counts.argsort(descending=True, stable=True)[:_CONFUSIONS].tolist():
        (label, answer), count = divmod(int(wrong[place]), size), int(counts[place])
        pairs.append(
            {
                "label": _class_name(scores, label),
                "predicted": _class_name(scores, answer),
                "count": count,
                "percent": f"{100 * count / int((labels == label).sum()):.0f}",
            }
        )
    matrix = []
    if size <= MAX_MATRIX:
        table = torch.bincount(cells, minlength=size * size).view(size, size)
        fractions = table.double() / table.sum(1, keepdim=True).clamp(min=1)
        matrix = [
            {
                "label": _class_name(scores, row),
                "cells": [
                    (int(table[row, column]), f"{float(fractions[row, column]):.3f}")
                    for column in range(size)
                ],
            }
            for row in range(size)
        ]
    return {"confusions": pairs, "matrix": matrix}


def _mistakes(scores: Scores, column: Column) -> list[dict[str, Any]]:
    if scores.confidence is None:
        return []
    order = scores.by_confidence(scores.wrong)
    return list(_shown(order, [(column, scores)], _thumbnails([column])))


def _disagreements(
    row: Row, places: Sequence[int], scored: Mapping[int, Scores], columns: Sequence[Column]
) -> Iterator[dict[str, Any]]:
    """Yield the images that only one of the best and each of the others gets right."""
    if row.best is None or row.best not in places:
        return
    best = scored[row.best]
    values = {place: row.cells[place].value or 0.0 for place in places}
    top = values.pop(row.best)
    for place in sorted(values, key=lambda place: abs(values[place] - top)):
        other = scored[place]
        pair = [(columns[row.best], best), (columns[place], other)]
        thumbnails = _thumbnails([columns[row.best], columns[place]])
        sides = []
        for winner, only, loser in (
            (columns[row.best], ~best.wrong & other.wrong, other),
            (columns[place], best.wrong & ~other.wrong, best),
        ):
            at = loser.by_confidence(only)
            sides.append(
                {
                    "label": winner.label,
                    "loser": columns[row.best if winner is columns[place] else place].label,
                    "count": len(at),
                    "images": list(_shown(at, pair, thumbnails)),
                }
            )
        yield {"first": columns[row.best].label, "second": columns[place].label, "sides": sides}


def _shown(
    order: Tensor, models: Sequence[tuple[Column, Scores]], thumbnails: Mapping[int, bytes]
) -> Iterator[dict[str, Any]]:
    """Yield the first images that have a thumbnail, with what models predict and how surely."""
    scores, count = models[0][1], 0
    names = _names([column for column, _ in models])
    labels, _ = scores.answers
    for position in order.tolist():
        index = int(scores.rows[position])
        if index not in thumbnails:
            continue
        yield {
            "thumbnail": thumbnails[index],
            "name": names.get(index, f"image {index}"),
            "label": _class_name(scores, int(labels[position])),
            "answers": [_answer(column, own, position) for column, own in models],
        }
        count += 1
        if count == SHOWN:
            return


def _answer(column: Column, scores: Scores, position: int) -> tuple[str, str, str]:
    _, predicted = scores.answers
    sure = "" if scores.confidence is None else f"{100 * float(scores.confidence[position]):.0f} %"
    return column.label, _class_name(scores, int(predicted[position])), sure


def maps(
    rows: Sequence[Row], columns: Sequence[Column], kind: MapKind = "pca"
) -> dict[str, Any] | None:
    """Return the maps of the sampled images, one per task and model, with their thumbnails.

    Args:
        rows: The metrics of the comparison.
        columns: Its models; those with a sample of features are drawn.
        kind: `pca`, the two directions of most variance, or `umap`, which preserves neighbourhoods.

    Returns:
        `tasks`, each with `classes` (name, colour) and `maps` (model, points), and `images` by
        index; `None` if there is nothing to draw.

    Raises:
        MissingDependencyError: For `umap`, if it is not installed.
    """
    placed = {}
    for column in columns:
        file = column.entries[0].scores
        if file is not None and len(file.sample) >= _FEWEST_POINTS:
            placed[column.label] = (file, _coordinates(file.sample_features, kind))
    if not placed:
        return None
    tasks = []
    used: set[int] = set()
    for task in dict.fromkeys(row.task for row in rows):
        drawn: list[dict[str, Any]] = []
        classes: dict[str, str] = {}
        for label, (file, positions) in placed.items():
            scores = next((s for s in file.scores if s.task == task and s.labels is not None), None)
            if scores is None or scores.labels is None:
                continue
            known = dict(zip(scores.rows.tolist(), scores.labels.tolist(), strict=True))
            numbers = sorted(set(scores.labels.tolist()))
            colours = {n: _colour(place, len(numbers)) for place, n in enumerate(numbers)}
            classes |= {_class_name(scores, n): colours[n] for n in numbers}
            points = [
                {
                    "index": index,
                    "x": f"{x:.1f}",
                    "y": f"{y:.1f}",
                    "colour": colours[known[index]],
                    "class": _class_name(scores, known[index]),
                }
                for index, (x, y) in zip(file.sample.tolist(), positions.tolist(), strict=True)
                if index in known
            ]
            drawn.append({"label": label, "points": points})
            used |= known.keys() & set(file.sample.tolist())
        if drawn:
            tasks.append({"task": task, "classes": classes, "maps": drawn})
    if not tasks:
        return None
    names, thumbnails = _names(columns), _thumbnails(columns)
    images = {
        index: {"name": names.get(index, f"image {index}"), "thumbnail": thumbnails.get(index)}
        for index in sorted(used)
    }
    return {"kind": kind, "tasks": tasks, "images": images}


def _coordinates(components: Tensor, kind: MapKind) -> Tensor:
    """Return positions (M, 2) in [4, 196]."""
    found = components[:, :2].double()
    if kind == "umap":
        check_layout(kind)
        import umap

        neighbours = min(_NEIGHBOURS, len(components) - 1)
        reducer = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1)
        found = torch.as_tensor(reducer.fit_transform(components.numpy())).double()
    if found.shape[1] < 2:
        found = torch.cat([found, torch.zeros(len(found), 2 - found.shape[1])], dim=1)
    low, high = found.amin(0), found.amax(0)
    middle, width = (low + high) / 2, (high - low).max().clamp(min=1e-12)
    return 100 + 192 * (found - middle) / width


def _colour(place: int, count: int) -> str:
    """Return a different colour for each class, visible on light and dark backgrounds."""
    hue = 360 * place / count if count <= SHOWN else place * _GOLDEN_ANGLE % 360
    return f"hsl({hue:.0f} {(70, 45)[place % 2]}% {(42, 60)[place % 2]}%)"


def _class_name(scores: Scores, number: int) -> str:
    return scores.classes[number] if number < len(scores.classes) else f"class {number}"


def _files(columns: Iterable[Column]) -> Iterator[ScoreFile]:
    for column in columns:
        for entry in column.entries:
            if entry.scores is not None:
                yield entry.scores


def _names(columns: Iterable[Column]) -> dict[int, str]:
    return {index: name for file in _files(columns) for index, name in file.names.items()}


def _thumbnails(columns: Iterable[Column]) -> dict[int, bytes]:
    return {index: image for file in _files(columns) for index, image in file.thumbnails.items()}
