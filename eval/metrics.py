"""Accuracies of classifiers, and R² of regressions."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.listing import first_few

TOP = 5


def hits(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return (N,) uint8: `top1`, whether the right class is the best; `top5`, among the best five.

    The latter only if there are more. The arguments are those of :func:`accuracies`.
    """
    found = {"top1": logits.argmax(1) == labels}
    if logits.shape[1] > TOP:
        # Ties go to the smaller class, as in argmax: `topk` may leave out the one that it takes.
        best = logits.argsort(dim=1, descending=True, stable=True)[:, :TOP]
        found["top5"] = (best == labels[:, None]).any(1)
    return {name: own.to(torch.uint8) for name, own in found.items()}


def accuracies(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the usual accuracies, each in [0, 1].

    Args:
        logits: (N, C), the larger the likelier.
        labels: (N,) integers in [0, C).

    Returns:
        `top1`; `top5`, how often the right class is among the best five, if there are more; and
        `mean_per_class`, the mean over the classes in `labels` of the accuracy in each.
    """
    found = {name: own.double() for name, own in hits(logits, labels).items()}
    means = {name: float(own.mean()) for name, own in found.items()}
    return {**means, "mean_per_class": mean_per_class(found["top1"], labels)}


def mean_per_class(correct: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes in `labels` of the accuracy in each.

    Args:
        correct: (N,) float64, 1 where the prediction is right, else 0.
        labels: (N,) integers.
    """
    by_class = [correct[labels == label].mean() for label in labels.unique()]
    return float(torch.stack(by_class).mean())


def r2_scores(predicted: Tensor, targets: Tensor, names: Mapping[int, str] | None = None) -> Tensor:
    """Return 1 - SS_res / SS_tot of each of K outputs.

    Args:
        predicted: (N, K).
        targets: (N, K).
        names: Names of outputs, for messages.

    Returns:
        (K,) float64, at most 1; negative if worse than the mean of the targets.

    Raises:
        DataError: If an output is the same in all samples, so that R² is not defined.
    """
    constant = (targets == targets[:1]).all(0).nonzero().flatten().tolist()
    if constant:
        which = dict.fromkeys((names or {}).get(own, f"output {own}") for own in constant)
        raise DataError(
            f"R² is not defined for {first_few(list(which))}: all {len(targets)} values to predict "
            "are equal; more samples are needed."
        )
    targets = targets.double()
    residual = (predicted.double() - targets).square().sum(0)
    total = (targets - targets.mean(0)).square().sum(0)
    return 1 - residual / total
