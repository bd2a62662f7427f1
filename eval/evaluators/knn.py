"""k-nearest neighbours."""

from dataclasses import dataclass

import torch

from cassle_zoo.eval.base import Outcome, Subject
from cassle_zoo.eval.knn import knn_predict


@dataclass(frozen=True, kw_only=True)
class KNN:
    """Weighted k-nearest neighbours by cosine similarity, among training and validation data.

    Attributes:
        k: Number of neighbours.
        temperature: Votes are weighted exp(cosine / temperature).
    """

    k: int = 20
    temperature: float = 0.07

    def evaluate(self, subject: Subject) -> Outcome:
        """Return `knn_top1` and `knn_mean_per_class` of every classification task."""
        metrics = {}
        for task in subject.data.tasks_of("classification"):
            gallery = torch.cat([task.splits["train"], task.splits["val"]])
            test = task.splits["test"]
            predicted = knn_predict(
                subject.features[gallery],
                task.targets[gallery],
                subject.features[test],
                num_classes=len(task.classes),
                k=self.k,
                temperature=self.temperature,
            )
            correct = (predicted == task.targets[test]).double()
            per_class = [
                correct[task.targets[test] == label].mean() for label in task.targets[test].unique()
            ]
            metrics[task.name] = {
                "knn_top1": float(correct.mean()),
                "knn_mean_per_class": float(torch.stack(per_class).mean()),
            }
        rule = f"cosine, k={self.k}, votes weighted exp(cosine / {self.temperature:g})"
        return Outcome(metrics=metrics, protocol={"k-NN": rule})
