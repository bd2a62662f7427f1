"""How the study was made and how its page is to be read."""

from collections.abc import Sequence

from benchmarks.study.design import GRID, MAIN, METHODS, UNTRAINED
from benchmarks.study.records import Record, choose, validation_score
from benchmarks.study.summary import markdown_table

READING = """\
Values are means ± sample standard deviations over seeds. Differences are paired by seed (equal
initial backbone, order and augmentation); in brackets the 95 % t interval, bold where it excludes
0. With few seeds such an interval is wide (t = 12.7 for two, 4.3 for three): what is not bold is
not shown to be absent. Each interval stands for itself: of twenty differences that are none, one is
bold by chance. All seeds are measured on the same test images; the intervals do not say how
others would do (flags has 259 queries, identity 394: one is 0.4 or 0.3 points)."""

FLAGS = """\
Seven groups of countries and territories have the same flag (16 of the 259 queries), so that
recall@1 of flags is at most about 96.5 %; among equal images every order counts alike, and in the
galleries below each of them is right."""


def setting(records: Sequence[Record]) -> str:
    """Say how much was trained on what, and how the hyper-parameters were chosen."""
    budgets, batches = (
        " or ".join(map(str, sorted({r.settings["optim"][name] for r in records if _is_long(r)})))
        for name in ("epochs", "batch_size")
    )
    trained = [record for record in records if record.group != UNTRAINED]
    hours = sum(record.seconds["train"] for record in trained) / 3600
    devices = "; ".join(sorted({record.device for record in trained}))
    text = (
        "## Setting\n\n"
        f"Every training, but for those of the grid and the ablations: {budgets} epochs of "
        f"emoji64's train split (no labels), batch {batches}. {len(trained)} trainings, "
        f"{hours:.1f} hours in all (with pauses), on: {devices}. Compared arms have equal settings "
        "but for what their names say, and are evaluated alike; a record in `benchmarks/study/records/` holds "
        "the settings and the results of each."
    )
    grid = [record for record in records if record.group == GRID]
    if not grid:
        return f"{text} Learning rate and weight decay are the recipe's."
    best = choose(grid)
    epochs = grid[0].settings["optim"]["epochs"]
    rows = [
        [
            f"{record.settings['optim']['base_lr']:g}",
            f"{record.settings['optim']['weight_decay']:g}",
            "no result" if record.error else f"{100 * validation_score(record):.1f}",
        ]
        for record in grid
    ]
    table = markdown_table(["learning rate", "weight decay", "validation"], rows)
    return (
        f"{text}\n\nLearning rate {best.base_lr:g} (at batch 256) and weight decay "
        f"{best.weight_decay:g} were chosen for the baseline, SimCLR without conditioning, in "
        f"{epochs} epochs: best mean over subcategory, skin tone and vendor of the linear probe's "
        "top-1 on validation images, a fifth of the train split by emoji (pretraining sees these "
        "images, without labels). Other methods use the same where their recipes have what "
        "SimCLR's has, and keep what they set apart.\n\n"
        f"{table}"
    )


def _is_long(record: Record) -> bool:
    """Whether a record is of a main arm or of another method."""
    return record.group in (MAIN, METHODS)
