"""The sections of docs/study.md."""

from collections.abc import Iterator, Sequence

from benchmarks.study.arms import arms_of, gallery_pairs, main_pairs, pairs_of, told_of
from benchmarks.study.design import CONDITIONING, DEPTH, METHODS, OMEGA, UNTRAINED
from benchmarks.study.job import WHITENED
from benchmarks.study.metrics import (
    DIRECTIONS,
    KEPT,
    KEPT_PAIRED,
    KEPT_SHORT,
    LEVEL,
    SENSITIVITY,
    SENSITIVITY_SHORT,
    SPECTRUM,
    TASKS,
    TASKS_SHORT,
    USED,
    USED_SHORT,
    WHITENED_TASKS,
)
from benchmarks.study.records import Record, best_of, validation_score
from benchmarks.study.setting import FLAGS
from benchmarks.study.summary import holm, markdown_table, paired, values
from benchmarks.study.tables import difference_table, spread_table

FOLDER = "study"
"""Folder of the figures, beside the page."""

TASKS_FIGURE, STAGES, STAGES_OF_METHODS = "tasks.png", "stages.png", "stages_methods.png"


def tasks_section(
    records: Sequence[Record], arms: Sequence[str], *, published: bool
) -> Iterator[str]:
    """Yield how good the features of the main arms are."""
    pairs = main_pairs(records)
    yield f"## Tasks\n\nIn percent, of test images. {FLAGS}"
    yield (
        f"![Every seed of every arm, by task]({FOLDER}/{TASKS_FIGURE})\n\nShort lines are seeds, "
        "bars standard deviations; axes begin where they must, and all span equally many points."
    )
    yield spread_table(records, [*arms, *arms_of(records, UNTRAINED)], TASKS)
    yield difference_table(records, pairs, TASKS)
    yield (
        f"Of the {len(TASKS)} columns as a family (Holm's correction; with probability 95 % no "
        "verdict of a line is wrong):"
    )
    yield "\n".join(f"- {a} against {b}: {_verdict(records, a, b)}." for a, b in pairs)
    if not published:
        return
    best = [best_of([r for r in records if r.arm == arm]) for arm in arms]
    yield (
        "Weights of an arm, where they are bundled, are of the seed with the best mean validation "
        "top-1 (as in the choice of the learning rate), a rule fixed before the trainings: "
        + ", ".join(f"{r.arm} seed {r.seed} ({100 * validation_score(r):.1f} %)" for r in best)
        + "."
    )


def whitened_section(records: Sequence[Record], arms: Sequence[str]) -> Iterator[str]:
    """Yield the tasks of neighbours with whitened features, and why these differ."""
    yield (
        "### With whitened features\n\nThe tasks of neighbours again, with features whitened to "
        f"{WHITENED} principal components, fitted to the training images without labels "
        f"(`cassle-zoo eval knn --whiten {WHITENED}`): every component counts alike, not only "
        "those along which the features spread most. This was added after the k-NN above had been "
        "seen, to look for its reason; no other number of components was tried on all seeds."
    )
    every = [*arms, *arms_of(records, UNTRAINED)]
    yield spread_table(records, every, WHITENED_TASKS)
    yield difference_table(records, main_pairs(records), WHITENED_TASKS)
    yield (
        "What the directions hold along which features spread most: the share of the variance in "
        "the largest 4 to 32 principal components, and the R² of predicting an image's mean "
        "colour from these alone, in percent:"
    )
    yield spread_table(records, every, DIRECTIONS)
    yield difference_table(records, main_pairs(records), DIRECTIONS)


def _verdict(records: Sequence[Record], first: str, second: str) -> str:
    """Say in which tasks the first is better or worse, corrected for their number."""
    found = [
        paired(values(records, first, metric), values(records, second, metric)) for metric in TASKS
    ]
    by_sign: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for metric, sign in zip(TASKS, holm(found), strict=True):
        by_sign[sign].append(metric.title)
    words = {1: "better", -1: "worse", 0: "undecided"}
    return "; ".join(
        f"{words[sign]} in {len(titles)}" + (f" ({', '.join(titles)})" if titles else "")
        for sign, titles in by_sign.items()
    )


def kept_section(records: Sequence[Record], arms: Sequence[str]) -> Iterator[str]:
    """Yield what the features keep of the augmentation."""
    every, pairs = [*arms, *arms_of(records, UNTRAINED)], main_pairs(records)
    yield (
        "## What the features keep of the augmentation\n\nR² in percent of predicting ω by ridge "
        "regression from the features of one view:"
    )
    yield spread_table(records, every, KEPT)
    yield difference_table(records, pairs, KEPT)
    yield "From the features of the view and of the whole image:"
    yield spread_table(records, every, KEPT_PAIRED)
    yield difference_table(records, pairs, KEPT_PAIRED)
    yield (
        "Sensitivity at full strength: InfoNCE between images and their augmented versions, "
        "minus that between the images and themselves (`original`), in the features; higher is "
        "less invariant. The closer together all features lie, the higher is `original`, and the "
        "less is left for the differences: compare arms that are alike in it."
    )
    yield spread_table(records, every, (LEVEL, *SENSITIVITY), decimals=3)
    yield difference_table(records, pairs, (LEVEL, *SENSITIVITY), decimals=3)
    yield "By stage (the projector of CASSLE is told the right ω); bars are standard deviations:"
    yield f"![Sensitivity by stage]({FOLDER}/{STAGES})"
    yield (
        "Does the projector use ω? How often the right ω, of 100, brings a view closest to its "
        "image (by chance: 1 %), and the cosine of the projector's outputs for both, told the "
        "right ω, zeros, or another view's:"
    )
    yield spread_table(records, told_of(records, arms), USED, decimals=2)
    yield "The spectrum of the features:"
    yield spread_table(records, every, SPECTRUM, decimals=2)


def others_section(records: Sequence[Record]) -> Iterator[str]:
    """Yield the same of the other methods."""
    arms = sorted(arms_of(records, METHODS))
    if not arms:
        return
    yield (
        "## Other methods\n\nTheir settings are those of their recipes, not tuned: compare a "
        "method with and without CASSLE, not methods."
    )
    yield _optimisers(records, arms)
    for title, metrics, decimals in (
        ("Tasks:", TASKS, 1),
        ("With whitened features:", WHITENED_TASKS, 1),
        ("Main directions:", DIRECTIONS, 1),
        ("R² of predicting ω from the features of one view:", KEPT, 1),
        ("R² of predicting ω from the features of view and image:", KEPT_PAIRED, 1),
        ("Sensitivity in the features:", (LEVEL, *SENSITIVITY), 3),
        ("Spectrum:", SPECTRUM, 2),
    ):
        yield title
        yield spread_table(records, arms, metrics, decimals)
        yield difference_table(records, pairs_of(records, METHODS), metrics, decimals)
    yield "Does the projector use ω?"
    yield spread_table(records, told_of(records, arms), USED, decimals=2)
    yield "Sensitivity to colour jitter and to crops by stage:"
    yield f"![Sensitivity by stage, other methods]({FOLDER}/{STAGES_OF_METHODS})"


def _optimisers(records: Sequence[Record], arms: Sequence[str]) -> str:
    """Return a table of what each arm was trained with."""
    keys = ("optimizer", "base_lr", "weight_decay", "warmup_epochs", "epochs")
    rows = []
    for arm in arms:
        optim = next(record.settings["optim"] for record in records if record.arm == arm)
        rows.append([arm, *(str(optim[key]) for key in keys)])
    titles = ["optimiser", "learning rate", "weight decay", "warm-up epochs", "epochs"]
    return markdown_table(["arm", *titles], rows)


def ablations_section(records: Sequence[Record]) -> Iterator[str]:
    """Yield what becomes of CASSLE-SimCLR with other conditionings."""
    titles = {
        CONDITIONING: "How the projector is told ω",
        OMEGA: "What of ω it is told",
        DEPTH: "Depth of the augmentation encoder",
    }
    for group, title in titles.items():
        own = [record for record in records if record.group == group]
        if own:
            [main] = {record.against for record in own}
            [epochs] = {record.settings["optim"]["epochs"] for record in own}
            [base] = {r.against for r in records if r.arm == main} or {""}
            first = [r for arm in (base, main) for r in records if (r.arm, r.seed) == (arm, 0)]
            arms = [*dict.fromkeys(record.arm for record in (*first, *own))]
            yield (
                f"## {title}\n\nSeed 0, {epochs} epochs. {main} is cat, all of ω, depth 6. R² is "
                "that of a view beside its whole image."
            )
            yield spread_table([*first, *own], arms, (*TASKS_SHORT, *KEPT_SHORT))
            yield "Sensitivity, and use of ω:"
            yield spread_table([*first, *own], arms, SENSITIVITY_SHORT, decimals=3)
            yield spread_table(
                [*first, *own], told_of([*first, *own], arms), USED_SHORT, decimals=2
            )


def galleries_section(records: Sequence[Record]) -> Iterator[str]:
    """Yield images with their neighbours."""
    found = list(gallery_pairs(records))
    if found:
        yield (
            "## Nearest neighbours\n\nSeed 0; the cosine of features as they are. A query, of the "
            "test images, then its five nearest by either model; solid frames are right. Shown "
            "are the queries with the greatest gains, above, and the greatest losses, below: "
            "extremes, not a sample."
        )
    for task, first, second in found:
        yield f"![{task}: {first.arm} and {second.arm}]({FOLDER}/gallery_{task}.png)"
