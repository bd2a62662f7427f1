"""Accuracies of classifiers, and R² of regressions."""

import torch
from torch import Tensor

TOP = 5


def accuracies(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the usual accuracies, each in [0, 1].

    Args:
        logits: (N, C), the larger the likelier.
        labels: (N,) integers in [0, C).

    Returns:
        `top1`; `top5`, how often the right class is among the best five, if there are more; and
        `mean_per_class`, the mean over the classes in `labels` of the accuracy in each.
    """
    correct = (logits.argmax(1) == labels).double()
    found = {"top1": float(correct.mean())}
    if logits.shape[1] > TOP:
        best = logits.topk(TOP, dim=1).indices
        found["top5"] = float((best == labels[:, None]).any(1).double().mean())
    return {**found, "mean_per_class": mean_per_class(correct, labels)}


def mean_per_class(correct: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes in `labels` of the accuracy in each.

    Args:
        correct: (N,) float64, 1 where the prediction is right, else 0.
        labels: (N,) integers.
    """
    by_class = [correct[labels == label].mean() for label in labels.unique()]
    return float(torch.stack(by_class).mean())


def r2_scores(predicted: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - SS_res / SS_tot of each of K outputs.

    Args:
        predicted: (N, K).
        targets: (N, K); R² is not finite for outputs that are constant.

    Returns:
        (K,) float64, at most 1; negative if worse than the mean of the targets.
    """
    targets = targets.double()
    residual = (predicted.double() - targets).square().sum(0)
    total = (targets - targets.mean(0)).square().sum(0)
    return 1 - residual / total
