"""Meaning of each metric, in words: label, a line of explanation, unit, and which way is better."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from cassle_zoo.eval.statistics import Interval

_TOP1 = "The fraction of test images whose class is predicted right."
_TOP5 = "The fraction of test images whose class is among the five likeliest."
_BALANCED = "The accuracy in each class, averaged: small classes count as much as large ones."
_LINEAR = "A linear classifier on the frozen features, its penalty chosen on validation images."
_KNN = "k-nearest neighbours: the vote of the most similar images of training and validation."

_PROTOCOLS = (
    (r"linear_(?P<rest>.+)", "linear probe", _LINEAR),
    (r"knn_(?P<rest>.+)", "k-NN", _KNN),
    (
        r"finetune_(?P<rest>top1|top5|mean_per_class)",
        "fine-tuning",
        "The whole network, trained on.",
    ),
    (
        r"finetune_(?P<detail>[\d.]+%)_(?P<rest>.+)",
        "fine-tuning, {detail} of labels",
        "The whole network, trained with this fraction of the labels.",
    ),
    (
        r"(?P<detail>[\d.]+%)_(?P<rest>.+)",
        "linear probe, {detail} of labels",
        "A linear classifier that knows this fraction of the labels; mean over several draws.",
    ),
)
_ACCURACIES = {
    "top1": ("top-1 accuracy", _TOP1),
    "top5": ("top-5 accuracy", _TOP5),
    "mean_per_class": ("mean per-class accuracy", _BALANCED),
    "top1_std": ("top-1, deviation", "Standard deviation of top-1 over the draws of labels."),
}
_OTHERS: tuple[tuple[str, str, str], ...] = (
    (
        r"(\d+)way_(\d+)shot_accuracy",
        r"few-shot accuracy, \1 classes, \2 each",
        r"Small random problems of \1 classes with \2 labelled images each: the fraction of other "
        "images classified right, averaged.",
    ),
    (
        r"(\d+)way_(\d+)shot_accuracy_ci95",
        r"few-shot accuracy, \1 classes, \2 each: ±",
        "Half of the 95 % interval of the mean over the random problems.",
    ),
    (
        r"recall@(\d+)",
        r"recall@\1",
        r"The fraction of queries with a right image among the \1 most similar.",
    ),
    (
        "mAP50",
        "AP50",
        "Detection: average precision of boxes that overlap by half.",
    ),
    ("mAP75", "AP75", "Detection: the same for boxes that overlap by three quarters."),
    (
        "mAP",
        "mean average precision",
        "Of whole rankings, over queries, or in detection over classes and overlaps of 50 to 95 %: "
        "100 if all right answers stand before all wrong ones.",
    ),
    (r"(.+) AP50", r"AP50 of \1", "Detection: average precision of this class."),
    (
        "r2",
        "R²",
        "The fraction of the targets' variance that is predicted: 1 is perfect, 0 no better than "
        "their mean, below 0 worse.",
    ),
    ("mae", "mean absolute error", "How far predictions are off, in the targets' own unit."),
    (
        "r2_single",
        "R² of ω from one view",
        "How well the augmentation can be read off one view's features: 1 fully, 0 not at all.",
    ),
    (
        "r2_pair",
        "R² of ω from image and view",
        "How well the augmentation can be read off the features of an image and its view: 1 fully.",
    ),
    (
        "omega_top1",
        "right ω found first",
        "How often the projector matches a view best under its own augmentation parameters.",
    ),
    ("mrr", "mean 1/rank", "Mean of 1/rank of the right image among all: 1 is always first."),
    (
        "omega_mrr",
        "right ω, mean 1/rank",
        "Mean of 1/rank of the right augmentation parameters among others: 1 is always first.",
    ),
    (
        r"infonce_(.+)",
        r"InfoNCE, \1",
        "How much the augmentation changes the features, against other images: higher is more "
        "sensitive, which is neither good nor bad.",
    ),
    (
        r"(mean_positive_cosine|mean_negative_cosine|mean_margin|self_distill|cca)_(.+)",
        r"\1, \2",
        "Compares the features of images and of their augmented versions; see the protocol.",
    ),
    (
        r"projector_cosine_(.+)",
        r"projections' cosine, \1 ω",
        r"Similarity of projections of an image and its view when the projector is given the \1 ω; "
        "a projector that uses ω is most similar under the right one.",
    ),
    (
        "alpha_req",
        "alpha-ReQ",
        "How fast the variance falls off over principal components; about 1 was found to go with "
        "good features.",
    ),
    ("rankme", "RankMe", "How many dimensions the features use in effect (effective rank)."),
    (
        r"components_(\d+)",
        r"components for \1 %",
        r"The number of principal components that hold \1 % of the variance.",
    ),
)
_FRACTIONS = ("top1", "top5", "mean_per_class", "accuracy", "recall", "map", "error", "ap50")
_HIGHER = ("r2", "mrr", "auc", "correlation")
_LOWER = ("error", "loss", "mse", "mae")
_NEITHER = ("std", "ci95")
"""Endings of metrics that are the spread of another."""


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """A metric in words.

    Attributes:
        label: Its name for readers.
        gloss: What it measures, in a sentence.
        unit: `%`, or empty.
        direction: 1 if higher is better, -1 if lower is, 0 if neither.
    """

    label: str
    gloss: str
    unit: str
    direction: int

    @property
    def arrow(self) -> str:
        """The direction in words, with an arrow."""
        return {1: "↑ higher is better", -1: "↓ lower is better", 0: ""}[self.direction]


def describe(metric: str) -> MetricInfo:
    """Return what a metric means; of an unknown one, its name and what the name suggests."""
    label, gloss = _words(metric)
    unit = "%" if is_fraction(metric) else ""
    return MetricInfo(label=label, gloss=gloss, unit=unit, direction=direction(metric))


def is_fraction(metric: str) -> bool:
    """Return whether a metric is a fraction of 1, to be shown in percent."""
    return any(part in metric.lower() for part in _FRACTIONS)


def direction(metric: str) -> int:
    """Return 1 if a higher metric is better, -1 if a lower one is, 0 if neither."""
    name = metric.lower()
    if name.endswith(_NEITHER):
        return 0
    if any(part in name for part in _LOWER):
        return -1
    return int(is_fraction(metric) or any(part in name for part in _HIGHER))


def format_value(metric: str, value: float | None) -> str:
    """Format a value: percent with one decimal, or four significant digits."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if is_fraction(metric) else f"{value:.4g}"


def format_difference(metric: str, value: float) -> str:
    """Format a difference with its sign: in percentage points, or two significant digits."""
    text = f"{100 * value:+.1f}" if is_fraction(metric) else f"{value:+.2g}"
    return text.replace("-", "−")


def format_interval(
    metric: str, interval: Interval, format_limit: Callable[[str, float], str] = format_value
) -> str:
    """Format the limits of an interval, of values or of differences."""
    low, high = (format_limit(metric, limit) for limit in (interval.low, interval.high))
    return f"{low} to {high}".replace("-", "−")


def with_unit(metric: str, difference: str) -> str:
    """Return a formatted difference with its unit."""
    return f"{difference} points" if is_fraction(metric) else difference


def _words(metric: str) -> tuple[str, str]:
    for pattern, label, gloss in _PROTOCOLS:
        match = re.fullmatch(pattern, metric)
        if match and match["rest"] in _ACCURACIES:
            name, text = _ACCURACIES[match["rest"]]
            return f"{label.format(**match.groupdict())}: {name}", f"{text} {gloss}"
    for pattern, label, gloss in _OTHERS:
        match = re.fullmatch(pattern, metric)
        if match:
            return match.expand(label), match.expand(gloss)
    return metric, "As its protocol defines it, below."
