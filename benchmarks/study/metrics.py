"""The numbers that the study's page shows."""

from benchmarks.study.summary import Metric


def _task(part: str, name: str, title: str, evaluation: str = "emoji64") -> Metric:
    return Metric(evaluation=evaluation, part=part, name=name, title=title, scale=100)


TASKS = (
    _task("subcategory", "linear_top1", "subcategory linear"),
    _task("subcategory", "knn_top1", "subcategory k-NN"),
    _task("skin_tone", "linear_top1", "skin tone linear"),
    _task("skin_tone", "knn_top1", "skin tone k-NN"),
    _task("vendor", "linear_top1", "vendor linear"),
    _task("vendor", "knn_top1", "vendor k-NN"),
    _task("flags", "recall@1", "flags recall@1"),
    _task("identity", "recall@1", "identity recall@1"),
)
WHITENED_TASKS = (
    _task("subcategory", "knn_top1", "subcategory k-NN", "knn-whitened"),
    _task("skin_tone", "knn_top1", "skin tone k-NN", "knn-whitened"),
    _task("vendor", "knn_top1", "vendor k-NN", "knn-whitened"),
    _task("flags", "recall@1", "flags recall@1", "retrieval-whitened"),
    _task("identity", "recall@1", "identity recall@1", "retrieval-whitened"),
)
"""Tasks of neighbours, with whitened features."""

KEPT, KEPT_PAIRED = (
    tuple(
        Metric(evaluation="equivariance", part=part, name=name, title=f"R² {part}", scale=100)
        for part in ("crop", "color", "color_diff", "blur", "grayscale", "flip", "mean")
    )
    for name in ("r2_single", "r2_pair")
)
"""Predicting ω from the features of a view alone, and beside those of its image."""

SENSITIVITY = tuple(
    Metric(
        evaluation="sensitivity",
        part=part,
        name="infonce_backbone",
        title=part,
        minus="original",
    )
    for part in (
        "crop",
        "color",
        "brightness",
        "contrast",
        "saturation",
        "hue",
        "blur",
        "grayscale",
        "flip",
        "recipe",
    )
)
"""How much farther an image is from its augmented version than from itself, in the features."""

LEVEL = Metric(evaluation="sensitivity", part="original", name="infonce_backbone", title="original")
"""InfoNCE between images and themselves: how close together the features of all images lie."""

USED = (
    Metric(
        evaluation="equivariance", part="omega", name="omega_top1", title="finds ω, %", scale=100
    ),
    *(
        Metric(
            evaluation="sensitivity",
            part=part,
            name=f"projector_cosine_{condition}",
            title=f"{part}, {condition} ω",
        )
        for part in ("recipe", "crop", "color")
        for condition in ("right", "zero", "shuffled")
    ),
)
"""How often the right ω brings an image and its view closer together than 99 others, and how close
they are, told this or that ω."""

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
    Metric(
        evaluation="main-directions",
        part="colour",
        name=f"{name}_{count}",
        title=f"{title}, {count}",
        scale=100,
    )
    for name, title in (("variance", "variance"), ("r2", "R² colour"))
    for count in (4, 8, 16, 32)
)
"""What the largest principal components hold."""

KEPT_SHORT = tuple(m for m in KEPT_PAIRED if m.part in ("crop", "color_diff", "mean"))
SENSITIVITY_SHORT = (LEVEL, *(m for m in SENSITIVITY if m.part in ("crop", "color", "recipe")))
USED_SHORT = tuple(m for m in USED if m.part in ("omega", "recipe"))
TASKS_SHORT = tuple(m for m in TASKS if m.title not in ("skin tone k-NN", "vendor k-NN"))
