"""Linear probe: multinomial logistic regression on frozen features.

Protocol (the paper's, section 4; Kornblith et al., 2019): features are not normalised; the
objective is summed cross-entropy plus w times the squared norm of weights and bias; w is the one
of 45 that classifies the validation data best by the metric that is reported of the dataset, and
the smallest such w if several do equally well; the classifier is fitted again on training and
validation data with that w, and tested once. Each fit is the optimum to a proven tolerance
(`cassle_zoo.eval.solvers.logistic_regression`), so the result depends on neither seed nor order.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from cassle_zoo.common.errors import DataError, unknown_name
from cassle_zoo.eval.metrics import accuracies
from cassle_zoo.eval.solvers.logistic_regression import TOLERANCE, Fit, fit_path

WEIGHT_GRID: tuple[float, ...] = tuple(10 ** (-6 + step / 4) for step in range(45))
"""45 log-spaced regularisation weights from 1e-6 to 1e5."""

METRICS: Mapping[str, str] = MappingProxyType({"top1": "top-1", "mean_per_class": "mean per class"})
"""Accuracies that w may be chosen by, in words."""

_SHOWN = 10
_MIN_CLASSES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Features with labels.

    Attributes:
        features: (N, D), not normalised.
        labels: (N,) integers from 0.
    """

    features: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a linear probe measured. Accuracies are in [0, 1].

    Attributes:
        top1: Accuracy on the test data.
        top5: How often the right class is among the best five; None with five classes or fewer.
        mean_per_class: Mean over the test classes of the accuracy in each.
        best_weight: The chosen w.
        weights: All w that were tried.
        validation_top1: Accuracy on the validation data for each of `weights`.
        validation_mean_per_class: Mean over their classes, likewise.
        objectives: Objective on the training data for each of `weights`.
    """

    top1: float
    top5: float | None
    mean_per_class: float
    best_weight: float
    weights: tuple[float, ...]
    validation_top1: tuple[float, ...]
    validation_mean_per_class: tuple[float, ...]
    objectives: tuple[float, ...]


def protocol(metrics: Iterable[str]) -> dict[str, object]:
    """Describe the protocol, with w chosen by some of `METRICS`."""
    words = " or ".join(sorted({METRICS[metric] for metric in metrics}))
    return {
        "features": "not normalised",
        "objective": "sum of cross-entropies + w * (|weight|^2 + |bias|^2)",
        "w": "45 log-spaced values in [1e-6, 1e5]",
        "selection": f"{words} on validation data, ties: smallest w",
        "final_fit": "train + validation data, tested once",
        "tolerance": TOLERANCE,
    }


def linear_probe(
    train: Labelled,
    val: Labelled,
    test: Labelled,
    *,
    num_classes: int | None = None,
    metric: str = "top1",
    weights: Sequence[float] = WEIGHT_GRID,
    sweep_tolerance: float = TOLERANCE,
) -> ProbeResult:
    """Measure how well a linear classifier does on features.

    Args:
        train: What classifiers are fitted on. Computed with on the device of these features.
        val: What w is chosen on.
        test: What is reported on.
        num_classes: Number of classes C; by default one more than the largest training label.
        metric: One of `METRICS`, by which w is chosen.
        weights: Regularisation weights to try.
        sweep_tolerance: Proven bound on the relative excess over their minima of the objectives
            among which w is chosen; the final fit always reaches `TOLERANCE`.

    Returns:
        The accuracies and how they came about.

    Raises:
        DataError: If features are not finite or too large to compute with, shapes or labels do
            not fit, there are fewer than two classes, or a class has no training sample.
        UnknownNameError: If there is no such metric.

    Warns:
        UserWarning: Once, if floating point does not let all fits reach the tolerance.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    classes = _check(train, val, test, num_classes)
    if not weights or not all(weight > 0 for weight in weights):
        raise DataError(f"regularisation weights must be positive, at least one: {weights!r}.")
    device = train.features.device
    val, test = _to(val, device), _to(test, device)
    train = _to(train, device)
    fits = _fit(train, classes, weights, sweep_tolerance)
    scores = [accuracies(fit.logits(val.features), val.labels) for fit in fits]
    ranks = [(score[metric], -fit.weight) for score, fit in zip(scores, fits, strict=True)]
    best = fits[ranks.index(max(ranks))]
    both = Labelled(
        features=torch.cat([train.features, val.features]),
        labels=torch.cat([train.labels, val.labels]),
    )
    (final,) = _fit(both, classes, [best.weight], TOLERANCE, start=best.coefficients)
    inexact = [fit for fit in fits if not fit.excess <= sweep_tolerance]
    inexact += [final] if not final.excess <= TOLERANCE else []
    if inexact:
        worst = max(inexact, key=lambda fit: fit.excess)
        excess = f"a share of {worst.excess:.0e}" if math.isfinite(worst.excess) else "any share"
        warnings.warn(
            f"{len(inexact)} of {len(fits) + 1} fits of the linear probe are not proven to be "
            f"optimal: at w={worst.weight:g} the objective may exceed its minimum by {excess}. "
            f"Features are as large as {_largest(both):.1e}.",
            stacklevel=2,
        )
    found = accuracies(final.logits(test.features), test.labels)
    return ProbeResult(
        top1=found["top1"],
        top5=found.get("top5"),
        mean_per_class=found["mean_per_class"],
        best_weight=best.weight,
        weights=tuple(weights),
        validation_top1=tuple(score["top1"] for score in scores),
        validation_mean_per_class=tuple(score["mean_per_class"] for score in scores),
        objectives=tuple(fit.objective for fit in fits),
    )


def _fit(
    data: Labelled,
    classes: int,
    weights: Sequence[float],
    tolerance: float,
    start: Tensor | None = None,
) -> list[Fit]:
    """Fit, without a warning for every w."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "logistic regression, w=")
        try:
            fits = fit_path(
                data.features, data.labels, classes, weights, tolerance=tolerance, start=start
            )
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            fits = []
    if not fits or not all(math.isfinite(fit.objective) for fit in fits):
        raise DataError(
            f"the linear probe cannot be fitted in floating point: features are as large as "
            f"{_largest(data):.1e}. Is the network broken? Else scale its features down."
        )
    return fits


def _largest(data: Labelled) -> float:
    return float(data.features.abs().max())


def _to(data: Labelled, device: torch.device) -> Labelled:
    return Labelled(features=data.features.to(device), labels=data.labels.to(device))


def _check(train: Labelled, val: Labelled, test: Labelled, num_classes: int | None) -> int:
    """Return the number of classes, after checking that the data can be used."""
    _check_part("training", train, train.features.shape[-1], None)
    classes = int(train.labels.max()) + 1 if num_classes is None else num_classes
    for name, part in {"training": train, "validation": val, "test": test}.items():
        _check_part(name, part, train.features.shape[1], classes)
    if classes < _MIN_CLASSES:
        raise DataError("a linear probe needs at least two classes.")
    counts = torch.bincount(train.labels, minlength=classes)
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        shown = ", ".join(map(str, empty[:_SHOWN])) + (", ..." if len(empty) > _SHOWN else "")
        raise DataError(f"classes without a training sample: {shown}.")
    return classes


def _check_part(name: str, part: Labelled, width: int, classes: int | None) -> None:
    features, labels = part.features, part.labels
    fits = features.ndim == 2 and features.shape[-1] == width
    if not fits or labels.shape != features.shape[:1]:
        raise DataError(
            f"{name} features {tuple(features.shape)} and labels {tuple(labels.shape)} do not "
            f"fit: expected (N, {width}) and (N,)."
        )
    if not len(labels):
        raise DataError(f"there are no {name} samples.")
    bad = int((~torch.isfinite(features)).any(1).sum())
    if bad:
        raise DataError(f"{bad} of {len(labels)} {name} feature vectors are NaN or infinite.")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(f"{name} labels are {labels.dtype}, expected integers.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        expected = "from 0" if classes is None else f"in [0, {classes - 1}]"
        raise DataError(f"{name} labels are in [{low}, {high}], expected {expected}.")
