"""Retrieval by cosine."""

import io
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cassle_zoo.errors import ConfigError
from cassle_zoo.eval.base import EvalData, Outcome, Subject, Task
from cassle_zoo.eval.retrieval import retrieve
from cassle_zoo.eval.retrieval_page import Example, Shown, retrieval_page, retrieval_sheet
from cassle_zoo.nearest import nearest_by_cosine

_SHEET_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Retrieval by cosine: recall@k, mean average precision, and pages to look at.

    Attributes:
        ks: For which k to measure recall@k.
        classification: Where to look up the test pictures of classification tasks: among the
            training and validation pictures, among the other test pictures, or not at all.
        examples: How many queries to show on the page of a task, evenly spread; 0 for no pages.
        shown: How many results to show of each.
    """

    ks: tuple[int, ...] = (1, 5, 10)
    classification: Literal["train", "test", "none"] = "train"
    examples: int = 40
    shown: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, low in [
            ("examples", self.examples, 0),
            ("shown", self.shown, 1),
            *(("ks", k, 1) for k in self.ks),
        ]:
            if value < low:
                raise ConfigError(f"{name} must be at least {low}, got {value}.")

    def evaluate(self, subject: Subject) -> Outcome:
        """Return `recall@k` and `mAP` of every retrieval and classification task."""
        data = subject.data
        tasks = (
            data.tasks_of("retrieval")
            if self.classification == "none"
            else data.tasks_of("retrieval", "classification")
        )
        metrics, protocol, files = {}, dict(self._protocol()), {}
        for task in tasks:
            queries, gallery, lonely = self._sides(task)
            if lonely:
                protocol[f"{task.name}, left out"] = (
                    f"{lonely} queries without another of their class"
                )
            scores = retrieve(
                subject.features[queries],
                task.targets[queries],
                subject.features[gallery],
                task.targets[gallery],
                ks=self.ks,
                positions=_positions(queries, gallery),
            )
            metrics[task.name] = {
                **{f"recall@{k}": float(scores.recall[k].mean()) for k in self.ks},
                "mAP": float(scores.average_precision.mean()),
            }
            if self.examples:
                title = f"{task.name} of {data.name}, {subject.source.name}"
                numbers = (f"{name} {100 * v:.1f} %" for name, v in metrics[task.name].items())
                found = self._examples(subject, task, queries, gallery)
                page = retrieval_page(
                    title,
                    f"{', '.join(numbers)} of {len(queries)} queries among {len(gallery)} "
                    f"pictures; {len(found)} queries are shown.",
                    found,
                )
                files[f"{task.name}.html"] = page.encode()
                buffer = io.BytesIO()
                retrieval_sheet(title, found[:: -(-len(found) // _SHEET_ROWS)]).save(
                    buffer, "PNG", optimize=True
                )
                files[f"{task.name}.png"] = buffer.getvalue()
        return Outcome(metrics=metrics, protocol=protocol, files=files)

    def _protocol(self) -> dict[str, str]:
        rule = (
            "cosine; relevant is what has the query's label; recall@k: one of them is among the k "
            "nearest; mAP: average precision over the whole ranking; both are means over all "
            "orders of ties"
        )
        sides = {
            "train": "query test, gallery train + validation",
            "test": "query test, gallery all other test pictures",
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
        self, subject: Subject, task: Task, queries: Tensor, gallery: Tensor
    ) -> list[Example]:
        count = min(self.examples, len(queries))
        chosen = queries[torch.arange(count) * len(queries) // count]
        cosines, places = nearest_by_cosine(
            subject.features[gallery], subject.features[chosen], self.shown + 1
        )
        found = []
        for query, own, indices in zip(chosen.tolist(), cosines, gallery[places], strict=True):
            others = [
                _shown(subject.data, task, index, cosine)
                for index, cosine in zip(indices.tolist(), own.tolist(), strict=True)
                if index != query
            ]
            found.append(
                Example(query=_shown(subject.data, task, query), found=others[: self.shown])
            )
        return found


def _positions(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return where each query stands in the gallery, or -1."""
    place = {index: position for position, index in enumerate(gallery.tolist())}
    return torch.tensor([place.get(index, -1) for index in queries.tolist()])


def _shown(data: EvalData, task: Task, index: int, cosine: float | None = None) -> Shown:
    return Shown(
        image=data.pictures[index][0],
        name=data.names[index] if data.names else f"picture {index}",
        label=task.classes[int(task.targets[index])],
        cosine=cosine,
    )
