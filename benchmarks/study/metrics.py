"""The numbers on the study's page: their place in a record, and their titles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.study.records import Record
from cassle_zoo.common.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number in a record, and how to show it.

    Attributes:
        evaluation: Such as `emoji64`.
        part: Task, augmentation or descriptor.
        name: Name of the number.
        title: Title in tables and figures.
        scale: Factor in tables and figures: 100 shows fractions in percent.
        minus: Another part, whose number of the same name is subtracted, if not empty.
    """

    evaluation: str
    part: str
    name: str
    title: str
    scale: float = 1.0
    minus: str = ""


def values(records: Sequence[Record], arm: str, metric: Metric) -> dict[int, float]:
    """Return a metric of an arm by seed, scaled; runs that diverged are left out.

    Raises:
        DataError: If a record lacks it.
    """
    return {
        record.seed: metric.scale * number_of(record, metric)
        for record in records
        if record.arm == arm and not record.error
    }


def number_of(record: Record, metric: Metric) -> float:
    """Return a metric of one record, not scaled.

    Raises:
        DataError: If the record lacks it.
    """
    try:
        parts = record.results[metric.evaluation].metrics
        base = parts[metric.minus][metric.name] if metric.minus else 0.0
        return parts[metric.part][metric.name] - base
    except KeyError:
        raise DataError(
            f"the record of {record.arm}, seed {record.seed}, has no {metric.evaluation} "
            f"{metric.part} {metric.name}; `python -m benchmarks.study run` measures what is "
            "missing."
        ) from None


def percent(evaluation: str, part: str, name: str, title: str) -> Metric:
    """Return a metric that tables show in percent."""
    return Metric(evaluation=evaluation, part=part, name=name, title=title, scale=100)


def _sensitivity(part: str, name: str, title: str, minus: str = "") -> Metric:
    return Metric(evaluation="sensitivity", part=part, name=name, title=title, minus=minus)


TASKS = tuple(
    percent("emoji64", part, name, title)
    for part, name, title in (
        ("subcategory", "linear_top1", "subcategory linear"),
        ("subcategory", "knn_top1", "subcategory k-NN"),
        ("skin_tone", "linear_top1", "skin tone linear"),
        ("skin_tone", "knn_top1", "skin tone k-NN"),
        ("vendor", "linear_top1", "vendor linear"),
        ("vendor", "knn_top1", "vendor k-NN"),
        ("flags", "recall@1", "flags recall@1"),
        ("identity", "recall@1", "identity recall@1"),
    )
)
TASKS_SHORT = tuple(m for m in TASKS if m.title not in ("skin tone k-NN", "vendor k-NN"))
WHITENED_TASKS = tuple(
    replace(m, evaluation="knn-whitened" if m.name == "knn_top1" else "retrieval-whitened")
    for m in TASKS
    if m.name != "linear_top1"
)
"""k-NN and retrieval with whitened features."""

R2_SINGLE, R2_PAIR = (
    tuple(
        percent("equivariance", part, name, f"R² {part}")
        for part in ("crop", "color", "color_diff", "blur", "grayscale", "flip", "mean")
    )
    for name in ("r2_single", "r2_pair")
)
"""Predicting ω from the features of a view alone, and of the view and its image."""

R2_SHORT = tuple(m for m in R2_PAIR if m.part in ("crop", "color_diff", "mean"))

AUGMENTATIONS = (
    *("crop", "color", "brightness", "contrast", "saturation", "hue", "blur", "grayscale"),
    *("flip", "recipe"),
)
COURSE = (
    *(
        percent("validation", part, "knn_top1", f"{part.replace('_', ' ')} k-NN")
        for part in ("subcategory", "skin_tone", "vendor")
    ),
    *(replace(m, evaluation="validation", part=f"omega {m.part}") for m in R2_SHORT),
)
"""What is measured while arms train, on validation images."""

SENSITIVITY = (
    _sensitivity("original", "infonce_backbone", "original"),  # how similar all images are
    *(_sensitivity(part, "infonce_backbone", part, minus="original") for part in AUGMENTATIONS),
)
"""How much farther an image is from its augmented version than from itself, in the features."""

SENSITIVITY_SHORT = tuple(
    m for m in SENSITIVITY if m.part in ("original", "crop", "color", "recipe")
)

OMEGA_USE = (
    percent("equivariance", "omega", "omega_top1", "finds ω, %"),
    *(
        _sensitivity(part, f"projector_cosine_{condition}", f"{part}, {condition} ω")
        for part in ("recipe", "crop", "color")
        for condition in ("right", "zero", "shuffled")
    ),
)
"""How often the right ω brings an image and its view closer together than 99 others do, and how
close they are when the projector is conditioned on the right ω, on zeros, or on another view's."""

OMEGA_USE_SHORT = tuple(m for m in OMEGA_USE if m.part in ("omega", "recipe"))

SPECTRUM = tuple(
    Metric(evaluation="spectrum", part="spectrum", name=name, title=title)
    for name, title in (
        ("rankme", "RankMe"),
        ("alpha_req", "α-ReQ"),
        ("components_90", "components for 90 %"),
        ("components_99", "components for 99 %"),
    )
)
DIRECTIONS = tuple(
    percent("main-directions", "colour", f"{name}_{count}", f"{title}, {count}")
    for name, title in (("variance", "variance"), ("r2", "R² colour"))
    for count in (4, 8, 16, 32)
)
"""Variance in the largest principal components, and the mean colour predicted from them."""
