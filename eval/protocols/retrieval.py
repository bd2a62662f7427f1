"""Retrieval by cosine."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.base import EvalContext, EvalData, Outcome, Task
from cassle_zoo.eval.choices import check_distinct
from cassle_zoo.eval.retrieval import retrieve
from cassle_zoo.eval.whitening import whitened
from cassle_zoo.features.gallery import GalleryItem, GalleryRow, contact_sheet, gallery_page
from cassle_zoo.features.nearest import nearest_by_cosine

_SHEET_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Retrieval by cosine: recall@k, mean average precision, and pages to look at.

    Attributes:
        ks: For which k to measure recall@k.
        classification: Where to look up the test images of classification tasks: among the
            training and validation images, among the other test images, or not at all.
        examples: How many queries to show on the page of a task, evenly spread; 0 for no pages.
        shown: How many results to show of each.
        whiten: Compare this many principal components of unit variance, fitted without
            labels to the training and validation data of classification tasks, or else to the
            galleries; by default the features as they are.
    """

    ks: Annotated[tuple[int, ...], Range(1)] = (1, 5, 10)
    classification: Literal["train", "test", "none"] = "train"
    examples: Annotated[int, Range(0)] = 40
    shown: Annotated[int, Range(1)] = 8
    whiten: Annotated[int | None, Range(1)] = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)
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
        features = whitened(context.features, data, self.whiten)
        metrics, protocol, files = {}, dict(self._protocol()), {}
        for task in tasks:
            queries, gallery, lonely = self._sides(task)
            if len(gallery) and len(task.targets[torch.cat([queries, gallery])].unique()) == 1:
                raise DataError(
                    f"task {task.name}: all images are of one class, so that whatever is found "
                    "is right; two are needed."
                )
            beyond = [f"recall@{k}" for k in self.ks if k > len(gallery)]
            if beyond:
                protocol[f"{task.name}, {' and '.join(beyond)}"] = (
                    f"of all {len(gallery)} images there are to find"
                )
            if lonely:
                protocol[f"{task.name}, left out"] = (
                    f"{lonely} of the queries, without another of their class"
                )
            scores = retrieve(
                features[queries],
                task.targets[queries],
                features[gallery],
                task.targets[gallery],
                ks=self.ks,
                positions=_positions(queries, gallery),
            )
            metrics[task.name] = {
                **{f"recall@{k}": float(scores.recall[k].mean()) for k in self.ks},
                "mAP": float(scores.average_precision.mean()),
            }
            if self.examples:
                numbers = (f"{name} {100 * v:.1f} %" for name, v in metrics[task.name].items())
                sides = f"{len(queries)} queries among {len(gallery)} images"
                found = self._examples(context.data, features, task, queries, gallery)
                title = f"{task.name} of {data.name}, {context.source.name}"
                text = f"{', '.join(numbers)} of {sides}; {len(found)} queries are shown."
                files[f"{task.name}.html"] = gallery_page(
                    title, found, summary=text, marked=True
                ).encode()
                files[f"{task.name}.png"] = _sheet(title, found)
        return Outcome(metrics=metrics, protocol=protocol, files=files)

    def _protocol(self) -> dict[str, str]:
        rule = (
            "cosine; relevant is what has the query's label; recall@k: one of them is among the k "
            "nearest; mAP: average precision over the whole ranking; both are means over all "
            "orders of ties"
        )
        if self.whiten is not None:
            rule += f"; whitened to {self.whiten} principal components, without labels"
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
        self, data: EvalData, features: Tensor, task: Task, queries: Tensor, gallery: Tensor
    ) -> list[GalleryRow]:
        count = min(self.examples, len(queries))
        chosen = queries[torch.arange(count) * len(queries) // count]
        cosines, places = nearest_by_cosine(features[gallery], features[chosen], self.shown + 1)
        found = []
        for query, own, indices in zip(chosen.tolist(), cosines, gallery[places], strict=True):
            others = [
                _shown(data, task, index, cosine)
                for index, cosine in zip(indices.tolist(), own.tolist(), strict=True)
                if index != query
            ]
            found.append(GalleryRow(query=_shown(data, task, query), found=others[: self.shown]))
        return found


def _sheet(title: str, found: Sequence[GalleryRow]) -> bytes:
    buffer = io.BytesIO()
    shown = found[:: -(-len(found) // _SHEET_ROWS)]
    contact_sheet(title, shown, marked=True).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _positions(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return where each query stands in the gallery, or -1."""
    place = {index: position for position, index in enumerate(gallery.tolist())}
    return torch.tensor([place.get(index, -1) for index in queries.tolist()])


def _shown(data: EvalData, task: Task, index: int, cosine: float = 0.0) -> GalleryItem:
    name = data.names[index] if data.names else f"image {index}"
    return GalleryItem(
        image=data.images[index][0],
        name=f"{name}, {data.captions[index]}" if data.captions else name,
        label=task.classes[int(task.targets[index])],
        cosine=cosine,
    )
