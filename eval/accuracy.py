"""Accuracies of a classifier."""

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
    per_class = torch.stack([correct[labels == label].mean() for label in labels.unique()])
    return {**found, "mean_per_class": float(per_class.mean())}
