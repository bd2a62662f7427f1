"""The study's page, its tables and figures in docs/, written from recorded results only."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.study import metrics
from benchmarks.study.design import CONDITIONING, DEPTH, GRID, MAIN, METHODS, OMEGA, UNTRAINED
from benchmarks.study.evaluators import WHITENED
from benchmarks.study.figures import (
    StagePanel,
    course_figure,
    gallery_figure,
    stages_figure,
    tasks_figure,
)
from benchmarks.study.metrics import AUGMENTATIONS, COURSE, TASKS, values
from benchmarks.study.records import (
    Record,
    arms_of,
    best_of,
    choose,
    conditioned,
    gallery_pairs,
    named_by_length,
    pairs_of,
    validation_score,
)
from benchmarks.study.summary import (
    course_table,
    difference_table,
    holm,
    number_table,
    paired,
    spread_table,
)
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.templates import render
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.report.figures import render as render_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, TABLES, FOLDER = "study.md", "study_tables.md", "study"
FINDINGS = Path(__file__).resolve().parent / "findings.md"
_FIGURES = {
    "tasks": "tasks.png",
    "course": "course.png",
    "stages": "stages.png",
    "methods": "stages_methods.png",
}
_ABLATIONS = {
    CONDITIONING: "How the projector is conditioned",
    OMEGA: "What the projector is conditioned on",
    DEPTH: "Depth of the augmentation encoder",
}


def page_texts(
    records: Sequence[Record], findings: str = "", courses: Sequence[Record] = ()
) -> dict[str, str]:
    """Return the page and the page of all tables, by file name.

    Args:
        records: Those of the main arms at least.
        findings: For the published records, in Markdown: the question in a paragraph, then what
            the numbers mean.
        courses: Records of trainings whose snapshots were measured.

    Raises:
        ConfigError: If no main arm was recorded.
    """
    arms, methods = arms_of(records, MAIN), sorted(arms_of(records, METHODS))
    if not arms:
        raise ConfigError(
            "no main arm of the study is recorded; run `python -m benchmarks.study run`."
        )
    pairs = pairs_of(records, MAIN)
    courses = named_by_length(courses)
    question, _, found = findings.strip().partition("\n\n")
    variables = {
        "question": question,
        "findings": found,
        **_setting(records),
        "m": metrics,
        "folder": FOLDER,
        "names": _FIGURES,
        "spreads": partial(spread_table, records),
        "differences": partial(difference_table, records),
        "conditioned": partial(conditioned, records),
        "arms": arms,
        "course": course_table(courses, COURSE) if courses else "",
        "every": [*arms, *arms_of(records, UNTRAINED)],
        "pairs": pairs,
        "verdicts": [f"{a} against {b}: {_verdict(records, a, b)}" for a, b in pairs],
        "best_seeds": _best_seeds(records, arms),
        "whitened": WHITENED,
        "methods": methods,
        "method_pairs": pairs_of(records, METHODS),
        "optimisers": _optimisers(records, methods),
        "ablations": list(_ablations(records)),
        "longer": _longer(records, courses),
        "galleries": [
            f"![{task}: {first.arm} and {second.arm}]({FOLDER}/gallery_{task}.png)"
            for task, first, second in gallery_pairs(records)
        ],
    }
    return {name: render("benchmarks.study", name, **variables) for name in (PAGE, TABLES)}


def write_page(
    records: Sequence[Record],
    data: EvalData,
    out: Path,
    findings: str = "",
    courses: Sequence[Record] = (),
) -> Path:
    """Write the page, the page of all tables, and the figures.

    Args:
        records: Those of the main arms at least.
        data: The images of the galleries.
        out: Folder of the page; figures go into a folder in it.
        findings: See `page_texts`.
        courses: See `page_texts`.

    Returns:
        The page.
    """
    texts = page_texts(records, findings, courses)
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, figure in _figures(records, data, courses):
        (out / FOLDER / name).write_bytes(render_figure(figure))
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return out / PAGE


def _figures(
    records: Sequence[Record], data: EvalData, courses: Sequence[Record]
) -> "Iterator[tuple[str, Figure]]":
    arms = arms_of(records, MAIN)
    yield _FIGURES["tasks"], tasks_figure(records, arms, TASKS)
    if courses:
        yield _FIGURES["course"], course_figure(named_by_length(courses), COURSE)
    main = [
        StagePanel(title=name, augmentation=name, arms={arm: arm for arm in arms})
        for name in AUGMENTATIONS
    ]
    yield _FIGURES["stages"], stages_figure(records, main)
    methods = [
        StagePanel(
            title=f"{plain}: {augmentation}",
            augmentation=augmentation,
            arms={"plain": plain, "CASSLE": cassle},
        )
        for cassle, plain in pairs_of(records, METHODS)
        for augmentation in ("color", "crop")
    ]
    if methods:
        yield _FIGURES["methods"], stages_figure(records, methods)
    for task, first, second in gallery_pairs(records):
        yield f"gallery_{task}.png", gallery_figure(data, task, first, second)


def _longer(records: Sequence[Record], courses: Sequence[Record]) -> dict[str, Any] | None:
    """Return what tables compare of arms that were trained for longer, too, if there are any."""
    main = [record for record in records if record.group in (MAIN, METHODS)]
    known = {record.arm for record in named_by_length(main)}
    longer = [record for record in courses if record.arm not in known]
    if not longer:
        return None
    trained = {(record.settings["name"], record.seed) for record in longer}
    short = named_by_length([r for r in main if (r.settings["name"], r.seed) in trained])
    found = [*short, *longer]
    seeds = Counter(record.arm for record in longer)
    groups = [(part, group) for part in (short, longer) for group in (MAIN, METHODS)]
    return {
        "arms": [arm for part, group in groups for arm in arms_of(part, group)],
        "best": _best_seeds(longer, [arm for arm in arms_of(longer, MAIN) if seeds[arm] > 1]),
        "pairs": [pair for part, group in groups for pair in pairs_of(part, group)],
        "spreads": partial(spread_table, found),
        "differences": partial(difference_table, found),
    }


def _best_seeds(records: Sequence[Record], arms: Sequence[str]) -> str:
    best = [best_of([record for record in records if record.arm == arm]) for arm in arms]
    return "; ".join(f"{r.arm}, seed {r.seed} ({100 * validation_score(r):.1f} %)" for r in best)


def _setting(records: Sequence[Record]) -> dict[str, Any]:
    """Return how much was trained, on what, and how the hyper-parameters were chosen."""
    long = [record for record in records if record.group in (MAIN, METHODS)]
    trained = [record for record in records if record.group != UNTRAINED]
    epochs, batch_sizes = (
        " or ".join(map(str, sorted({record.settings["optim"][name] for record in long})))
        for name in ("epochs", "batch_size")
    )
    found: dict[str, Any] = {
        "epochs": epochs,
        "batch_sizes": batch_sizes,
        "trainings": len(trained),
        "hours": sum(record.seconds["train"] for record in trained) / 3600,
        "devices": "; ".join(sorted({record.device for record in trained})),
        "grid": None,
    }
    if grid := [record for record in records if record.group == GRID]:
        rows = [
            [
                f"{record.settings['optim']['base_lr']:g}",
                f"{record.settings['optim']['weight_decay']:g}",
                "no result" if record.error else f"{100 * validation_score(record):.1f}",
            ]
            for record in grid
        ]
        found["grid"] = {
            "best": choose(grid),
            "epochs": grid[0].settings["optim"]["epochs"],
            "table": number_table(["learning rate", "weight decay", "validation"], rows),
        }
    return found


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


def _optimisers(records: Sequence[Record], arms: Sequence[str]) -> str:
    """Return a table of what each arm was trained with."""
    keys = ("optimizer", "base_lr", "weight_decay", "warmup_epochs", "epochs")
    rows = []
    for arm in arms:
        optim = next(record.settings["optim"] for record in records if record.arm == arm)
        rows.append([arm, *(str(optim[key]) for key in keys)])
    titles = ["optimiser", "learning rate", "weight decay", "warm-up epochs", "epochs"]
    return number_table(["arm", *titles], rows)


def _ablations(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Yield the ablations that were recorded, with seed 0 of the arms that they are compared to."""
    for group, title in _ABLATIONS.items():
        own = [record for record in records if record.group == group]
        if not own:
            continue
        [main] = {record.against for record in own}
        [epochs] = {record.settings["optim"]["epochs"] for record in own}
        [base] = {record.against for record in records if record.arm == main} or {""}
        first = [r for arm in (base, main) for r in records if (r.arm, r.seed) == (arm, 0)]
        yield {
            "title": title,
            "main": main,
            "epochs": epochs,
            "arms": list(dict.fromkeys(record.arm for record in (*first, *own))),
            "spreads": partial(spread_table, [*first, *own]),
        }
