"""Measurements of adapted weights: validation images of emoji64, and what was forgotten."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.study.original import original_network
from benchmarks.study.photographs import crops_of, photograph_files
from cassle_zoo.common.files import sha256
from cassle_zoo.eval.base import EvalContext, EvalData, Evaluator, Outcome, Settings
from cassle_zoo.eval.protocols.equivariance import L2_GRID, Equivariance
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.solvers.ridge import Ridge
from cassle_zoo.features.extract import extract_features


@dataclass(frozen=True, kw_only=True)
class Validation(Settings):
    """Tasks and ω on emoji64's validation images; test images take no part.

    Attributes:
        omega: How ω is predicted.
    """

    omega: Equivariance = field(default_factory=lambda: Equivariance(images=3000, figures=False))

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `ridge_top1` and `knn_top1` of every classification task, and R² of ω.

        `ridge_top1` is the highest over the penalties of `equivariance.L2_GRID`.
        """
        data = validation_data(context.data)
        own = EvalContext(context.source, data, context.compute)
        knn = KNN().evaluate(own)
        omega = self.omega.evaluate(own)
        metrics = {name: dict(values) for name, values in knn.metrics.items()}
        for task in data.tasks:
            train, held = task.splits["train"], task.splits["test"]
            targets = F.one_hot(task.targets[train], len(task.classes)).double()
            ridge = Ridge(own.features[train], targets)
            metrics[task.name]["ridge_top1"] = max(
                _top1(ridge.predict(own.features[held], l2 * len(train)), task.targets[held])
                for l2 in L2_GRID
            )
        metrics |= {f"omega {name}": values for name, values in omega.metrics.items()}
        protocol = {
            "images": "fitted to training images, measured on validation images",
            "ridge": f"on standardised features; the best of {len(L2_GRID)} penalties",
            **knn.protocol,
            **omega.protocol,
        }
        return Outcome(metrics=metrics, protocol=protocol)


def validation_data(data: EvalData) -> EvalData:
    """Return a dataset's classification tasks without test images: validation takes their place.

    Raises:
        DataError: If there are no classification tasks.
    """
    tasks = data.tasks_of("classification")
    kept = dataclasses.replace(data, tasks=tasks).without(
        data.test_images().tolist(), "test images"
    )
    moved = tuple(
        dataclasses.replace(
            task,
            splits={
                "train": task.splits["train"],
                "val": task.splits["val"][:0],
                "test": task.splits["val"],
            },
        )
        for task in kept.tasks
    )
    return dataclasses.replace(kept, tasks=moved)


@dataclass(frozen=True, kw_only=True)
class Forgetting(Settings):
    """What is left of the starting weights' features of photographs, at the model's image size."""

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `cka` with the starting weights' features, and `top1_agreement`.

        The latter is how often their own classifier, given the adapted features instead of the
        original ones, names the same of 1,000 classes.

        Raises:
            MissingDependencyError: If a package with the weights or photographs is missing.
        """
        files = photograph_files()
        crops = [crop for file in files for crop in crops_of(file)]
        size = context.transform(crops[0]).shape[-1]
        network: Any = original_network(size)
        device = context.compute.device
        adapted, original = (
            extract_features(model, crops, device=device, progress=False).features
            for model in (context.model, network)
        )
        with torch.inference_mode():
            now, before = (network.classifier(f).argmax(1) for f in (adapted, original))
        agreement = float((now == before).double().mean())
        metrics = {"cka": linear_cka(adapted, original), "top1_agreement": agreement}
        digest = sha256("".join(map(sha256, files)))
        rule = (
            f"{len(crops)} crops of {len(files)} photographs in foolbox, "
            f"scikit-image and scikit-learn (sha256 {digest[:12]}...); linear CKA, "
            "debiased; agreement of the original classifier's top-1 given adapted and given "
            "original features"
        )
        return Outcome(metrics={"photographs": metrics}, protocol={"forgetting": rule})


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return linear centred kernel alignment of features of the same images, debiased.

    With the unbiased estimate of HSIC (Song et al., 2012), because there are fewer images than
    features, where the usual estimate is near 1 whatever they are.

    Args:
        first: (N, D), N > 3.
        second: (N, E).

    Returns:
        At most 1, which is reached if one is a rotated and scaled copy of the other; about 0, maybe
        below, if they have nothing in common.
    """
    k, m = (_without_diagonal(f.double() @ f.double().T) for f in (first, second))
    return float(_hsic(k, m) / (_hsic(k, k) * _hsic(m, m)).sqrt())


def _without_diagonal(kernel: Tensor) -> Tensor:
    return kernel - torch.diag(kernel.diagonal())


def _hsic(k: Tensor, m: Tensor) -> Tensor:
    """Return the unbiased estimate of HSIC from kernels with zero diagonals, times N(N - 3)."""
    n = len(k)
    trace = (k * m).sum()
    return trace + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(1))


def _top1(scores: Tensor, labels: Tensor) -> float:
    return float((scores.argmax(1) == labels).double().mean())


VALIDATION_EVALUATORS: dict[str, Evaluator] = {
    "validation": Validation(),
    "forgetting": Forgetting(),
}
TEST_EVALUATORS = ("emoji64", "equivariance", "knn-whitened", "retrieval-whitened")
"""Those of `evaluators.EVALUATORS` that adapted arms are measured with, too."""
