"""k-nearest neighbours among training and validation data."""

from dataclasses import dataclass
from typing import Annotated

import torch

from cassle_zoo.common.config import POSITIVE, Range
from cassle_zoo.common.errors import DataError
from cassle_zoo.data.listing import first_few
from cassle_zoo.eval.base import EvalContext, Outcome, Settings, Whiten, whitened
from cassle_zoo.eval.scores import classification
from cassle_zoo.features.nearest import knn_votes


@dataclass(frozen=True, kw_only=True)
class KNN(Settings):
    """Weighted k-nearest neighbours by cosine similarity, among training and validation data.

    Attributes:
        k: Number of neighbours.
        temperature: Votes are weighted exp(cosine / temperature).
        whiten: Number of whitened principal components to compare, fitted without labels to
            training and validation data; or the file of a whitening that `cassle-zoo whiten`
            wrote, or `model` for the one in the model's folder. By default the features are not
            whitened.
    """

    k: Annotated[int, Range(1)] = 20
    temperature: Annotated[float, POSITIVE] = 0.07
    whiten: Whiten = None

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `knn_top1` and `knn_mean_per_class` of every classification task.

        Raises:
            ConfigError: If `whiten` is more than the width of the features.
            DataError: If there is only one class, features are zero, or there are too few images
                to whiten.
        """
        scores = []
        tasks = context.data.tasks_of("classification")
        features, whitening = whitened(context, self.whiten)
        galleries: dict[str, int] = {}
        for task in tasks:
            gallery = torch.cat([task.splits["train"], task.splits["val"]])
            test = task.splits["test"]
            if not len(test):
                raise DataError(f"task {task.name} has no test images.")
            if len(task.targets[gallery].unique()) == 1:
                raise DataError(
                    f"task {task.name}: all training and validation images are of one class, so "
                    "that k-NN is always right or always wrong; two are needed."
                )
            unseen = set(task.targets[test].tolist()) - set(task.targets[gallery].tolist())
            if unseen:
                raise DataError(
                    f"task {task.name}: no training or validation images of classes that are "
                    f"tested: {first_few([task.classes[label] for label in sorted(unseen)])}."
                )
            used = torch.cat([gallery, test])
            zero = int((~context.features[used].any(1)).sum())
            if zero:
                raise DataError(
                    f"task {task.name}: {zero} of {len(used)} feature vectors are zero and have no "
                    "direction that cosines could compare."
                )
            galleries[task.name] = len(gallery)
            votes = knn_votes(
                features[gallery],
                task.targets[gallery],
                features[test],
                num_classes=len(task.classes),
                k=self.k,
                temperature=self.temperature,
            )
            own = classification(
                task.name, test, task.targets[test], votes, prefix="knn_", classes=task.classes,
                top5=False, confidence=votes.amax(1) / votes.sum(1),
            )  # fmt: skip
            scores.append(own)
        rule = f"cosine, k={self.k}, votes weighted exp(cosine / {self.temperature:g})"
        for name, size in galleries.items():
            if size < self.k:
                rule += f"; all {size} neighbours of {name}, as there are no more"
        if whitening:
            rule += f", {whitening}"
        metrics = {own.task: own.means() for own in scores}
        return Outcome(metrics=metrics, protocol={"k-NN": rule}, scores=tuple(scores))
