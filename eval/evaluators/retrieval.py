"""Retrieval by cosine."""

from dataclasses import dataclass

from cassle_zoo.eval.base import Outcome, Subject
from cassle_zoo.eval.retrieval import recall_at_k


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Retrieval by cosine: how often is the right picture the nearest one?"""

    def evaluate(self, subject: Subject) -> Outcome:
        """Return `recall@1` of every retrieval task."""
        metrics = {}
        for task in subject.data.tasks_of("retrieval"):
            query, gallery = task.splits["query"], task.splits["gallery"]
            recall = recall_at_k(
                subject.features[query],
                task.targets[query],
                subject.features[gallery],
                task.targets[gallery],
            )
            metrics[task.name] = {"recall@1": recall}
        return Outcome(metrics=metrics, protocol={"retrieval": "cosine, recall@1"})
