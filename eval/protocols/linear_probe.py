"""Linear probe: multinomial logistic regression on frozen features.

Protocol (the paper's, section 4; Kornblith et al., 2019): features are not normalised; the
objective is summed cross-entropy plus w times the squared norm of weights and bias; w is the one
of 45 that classifies the validation data best by the metric reported for the dataset, and
the smallest such w if several do equally well; the classifier is fitted again on training and
validation data with that w, and tested once. Each fit is the optimum to a proven tolerance
(`cassle_zoo.eval.solvers.logistic_regression`), so the result depends on neither seed nor order.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor

from cassle_zoo.common.config import Range
from cassle_zoo.common.devices import pick_device
from cassle_zoo.common.errors import DataError, unknown_name
from cassle_zoo.data.listing import first_few
from cassle_zoo.eval.base import EvalContext, Outcome, Settings, Task
from cassle_zoo.eval.metrics import accuracies
from cassle_zoo.eval.scores import classification
from cassle_zoo.eval.solvers.logistic_regression import TOLERANCE, Fit, fit_path

L2_GRID: tuple[float, ...] = tuple(10 ** (-6 + step / 4) for step in range(45))
"""45 log-spaced penalties w from 1e-6 to 1e5."""

METRICS: Mapping[str, str] = MappingProxyType({"top1": "top-1", "mean_per_class": "mean per class"})
"""Accuracies that w may be chosen by, in words."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Features and the targets to predict from them.

    Attributes:
        features: (N, D), not normalised.
        targets: (N,) integers from 0, or (N, K) values.
    """

    features: Tensor
    targets: Tensor

    @classmethod
    def of(cls, features: Tensor, task: Task) -> "tuple[Samples, Samples, Samples]":
        """Return the samples of the splits `train`, `val` and `test`.

        Args:
            features: (N, D) features of all images.
            task: The task.
        """
        rows = (task.splits[name] for name in ("train", "val", "test"))
        train, val, test = (cls(features[own], task.targets[own]) for own in rows)
        return train, val, test

    def __add__(self, other: "Samples") -> "Samples":
        """Return the samples of both."""
        return Samples(
            torch.cat([self.features, other.features]), torch.cat([self.targets, other.targets])
        )

    def to(self, device: torch.device) -> "Samples":
        """Return the samples on a device."""
        return Samples(self.features.to(device), self.targets.to(device))

    def check(self, name: str, width: int, outputs: tuple[int, ...] = ()) -> None:
        """Check shapes and numbers.

        Args:
            name: Name of the split, for messages.
            width: Expected D.
            outputs: Expected shape of a target.

        Raises:
            DataError: If shapes do not fit, there are no samples, or features are not finite.
        """
        features, targets = self.features, self.targets
        expected = (features.shape[0], width), (features.shape[0], *outputs)
        if (features.shape, targets.shape) != expected:
            raise DataError(
                f"{name} features {tuple(features.shape)} and targets {tuple(targets.shape)} do "
                f"not fit: expected (N, {width}) and (N{''.join(f', {k}' for k in outputs)})."
            )
        if not len(features):
            raise DataError(f"there are no {name} samples.")
        for kind, values in (("feature", features), ("target", targets)):
            bad = int((~torch.isfinite(values.reshape(len(values), -1))).any(1).sum())
            if bad:
                raise DataError(
                    f"{bad} of {len(values)} {name} {kind} vectors are NaN or infinite."
                )


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Result of a linear probe; accuracies are in [0, 1].

    Attributes:
        top1: Accuracy on the test data.
        mean_per_class: Mean over the test classes of the accuracy in each.
        best_l2: The chosen w.
        validation: Accuracy on the validation data for each w that was tried.
        objectives: Objective on the training data, likewise.
        test_logits: (N, C) of the test data.
    """

    top1: float
    mean_per_class: float
    best_l2: float
    validation: tuple[float, ...]
    objectives: tuple[float, ...]
    test_logits: Tensor = field(compare=False, repr=False)


def protocol(metrics: Iterable[str], sweep_tolerance: float) -> str:
    """Describe the protocol, with w chosen by some of `METRICS`."""
    words = " or ".join(sorted({METRICS[metric] for metric in metrics}))
    return (
        "features: not normalised, objective: sum of cross-entropies + w * (|weight|^2 + "
        "|bias|^2), w: 45 log-spaced values in [1e-6, 1e5], "
        f"selection: {words} on validation data, ties: smallest w, "
        f"final_fit: train + validation data, tested once, tolerance: {TOLERANCE}, "
        f"tolerance of the sweep: {sweep_tolerance}"
    )


def linear_probe(
    train: Samples,
    val: Samples,
    test: Samples,
    *,
    num_classes: int,
    names: Sequence[str] = (),
    metric: str = "top1",
    l2_grid: Sequence[float] = L2_GRID,
    sweep_tolerance: float = TOLERANCE,
    on_fit: Callable[[], object] = lambda: None,
) -> ProbeResult:
    """Measure how well a linear classifier does on features.

    Args:
        train: Samples to fit, on the device to compute on.
        val: Samples to choose w on.
        test: Samples to report on.
        num_classes: Number of classes C.
        names: Names of the classes, for messages.
        metric: One of `METRICS`, by which w is chosen.
        l2_grid: Values of w to try.
        sweep_tolerance: Proven bound on how far (relatively) the objectives of the sweep over w are
            above their minima; the final fit always reaches `TOLERANCE`.
        on_fit: Called after every fit, `len(l2_grid) + 1` times.

    Returns:
        The accuracies, and the search for w.

    Raises:
        DataError: If features are not finite or too large to compute with, shapes or labels do
            not fit, there are fewer than two classes, or a class has no training sample.
        UnknownNameError: If there is no such metric.

    Warns:
        UserWarning: Once, if floating point does not let all fits reach the tolerance.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    _check(train, val, test, num_classes, names)
    device = train.features.device
    train, val, test = train.to(device), val.to(device), test.to(device)
    fits = _fit(train, num_classes, l2_grid, sweep_tolerance, on_fit)
    scores = [accuracies(fit.logits(val.features), val.targets)[metric] for fit in fits]
    ranks = [(score, -fit.l2) for score, fit in zip(scores, fits, strict=True)]
    best = fits[ranks.index(max(ranks))]
    both = train + val
    (final,) = _fit(both, num_classes, [best.l2], TOLERANCE, on_fit, best.coefficients)
    inexact = [fit for fit in fits if not fit.excess <= sweep_tolerance]
    inexact += [final] if not final.excess <= TOLERANCE else []
    if inexact:
        worst = max(inexact, key=lambda fit: fit.excess)
        excess = f"{worst.excess:.0e} of it" if math.isfinite(worst.excess) else "any amount"
        warnings.warn(
            f"{len(inexact)} of {len(fits) + 1} fits of the linear probe are not proven to be "
            f"optimal: at w={worst.l2:g} the objective may exceed its minimum by {excess}. "
            f"Features are as large as {_largest(both):.1e}.",
            stacklevel=2,
        )
    test_logits = final.logits(test.features)
    found = accuracies(test_logits, test.targets)
    return ProbeResult(
        top1=found["top1"],
        mean_per_class=found["mean_per_class"],
        best_l2=best.l2,
        validation=tuple(scores),
        objectives=tuple(fit.objective for fit in fits),
        test_logits=test_logits,
    )


def _fit(
    data: Samples,
    classes: int,
    l2_grid: Sequence[float],
    tolerance: float,
    on_fit: Callable[[], object],
    start: Tensor | None = None,
) -> list[Fit]:
    try:
        fits = fit_path(
            data.features, data.targets, classes, l2_grid, tolerance=tolerance, start=start,
            on_fit=on_fit,
        )  # fmt: skip
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        fits = []
    if not fits or not all(math.isfinite(fit.objective) for fit in fits):
        raise DataError(
            f"the linear probe cannot be fitted in floating point: features are as large as "
            f"{_largest(data):.1e}. Is the network broken? Else scale its features down."
        )
    return fits


def _largest(data: Samples) -> float:
    return float(data.features.abs().max())


def _check(train: Samples, val: Samples, test: Samples, classes: int, names: Sequence[str]) -> None:
    for name, part in {"training": train, "validation": val, "test": test}.items():
        part.check(name, train.features.shape[-1])
        labels = part.targets
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise DataError(f"{name} labels are {labels.dtype}, expected integers.")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise DataError(
                f"{name} labels are in [{low}, {high}], expected in [0, {classes - 1}]."
            )
    if classes < 2:
        raise DataError("a linear probe needs at least two classes.")
    counts = torch.bincount(train.targets, minlength=classes)
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        named = [names[label] for label in empty] if names else empty
        raise DataError(f"classes without a training sample: {first_few(named)}.")


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Settings):
    """Linear probe: multinomial logistic regression on frozen features, w chosen on validation.

    Attributes:
        sweep_tolerance: Proven bound on how far (relatively) the objectives of the sweep over w
            are above their minima; the final fit always reaches 5e-7. A larger one is faster and
            can choose another w.
    """

    sweep_tolerance: Annotated[float, Range(0, 1, open_low=True)] = TOLERANCE

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return accuracies of every classification task, and how validation chose w."""
        # float64 needs CPU or CUDA.
        device = pick_device(context.compute.device)
        features = context.features.to(device if device.type == "cuda" else "cpu")
        chosen: dict[str, float] = {}
        series: dict[str, list[float]] = {}
        scores = []
        tasks = context.data.tasks_of("classification")
        for task in tasks:
            with context.compute.bar(
                total=len(L2_GRID) + 1, unit="fit", desc=f"linear probe, {task.name}"
            ) as bar:
                probe = linear_probe(
                    *Samples.of(features, task),
                    num_classes=len(task.classes),
                    names=task.classes,
                    metric=task.metric,
                    sweep_tolerance=self.sweep_tolerance,
                    on_fit=bar.update,
                )
            chosen[task.name] = probe.best_l2
            test = task.splits["test"]
            own = classification(
                task.name, test, task.targets[test], probe.test_logits, prefix="linear_",
                classes=task.classes,
            )  # fmt: skip
            scores.append(own)
            series[f"{task.name}: validation {METRICS[task.metric]} by w"] = list(probe.validation)
        words = {
            "linear probe": protocol((task.metric for task in tasks), self.sweep_tolerance),
            "chosen w": ", ".join(f"{name} {l2:.3g}" for name, l2 in chosen.items()),
        }
        metrics = {own.task: own.means() for own in scores}
        return Outcome(metrics=metrics, protocol=words, series=series, scores=tuple(scores))
