import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.study import main
from benchmarks.study.figures import gallery_figure, tasks_figure
from benchmarks.study.metrics import TASKS
from benchmarks.study.page import PAGE, page_text
from benchmarks.study.records import RECORDS, Record, best_of, load_records
from benchmarks.study.run import Walk
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.datasets import open_data

ROOT = Path(__file__).resolve().parents[3]
PLAIN, CASSLE = "test_resnet_simclr", "test_resnet_cassle_simclr"


def cells(text: str, row: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
def test_the_page_says_what_was_recorded(finished: Walk, tmp_path: Path) -> None:
    argv = ["page", "--data", str(finished.data), "--records", str(finished.out / "records")]
    assert main.run_from_cli([*argv, "-o", str(tmp_path)]) == 0
    text = (tmp_path / PAGE).read_text()
    records = load_records(finished.out / "records")
    by = {(r.arm, r.seed): r.results["emoji64"].metrics for r in records if r.group != "grid"}
    for arm in (PLAIN, CASSLE):
        a, b = (100 * by[arm, seed]["subcategory"]["linear_top1"] for seed in (0, 1))
        std = abs(a - b) / 2**0.5
        assert cells(text, arm)[1:3] == ["2", f"{(a + b) / 2:.1f} ± {std:.1f}"]
    d = [
        100 * (by[CASSLE, s]["vendor"]["knn_top1"] - by[PLAIN, s]["vendor"]["knn_top1"])
        for s in (0, 1)
    ]
    assert cells(text, f"{CASSLE} - {PLAIN}")[6].strip("*").startswith(f"{(d[0] + d[1]) / 2:+.1f}")
    ablation = text.partition("## Depth")[2]
    assert f"Seed 0, 2 epochs. {CASSLE}-2epochs is cat" in ablation
    rows = [line.split(" | ")[0] for line in ablation.splitlines() if line.startswith("| test")]
    arms = [f"{PLAIN}-2epochs", f"{CASSLE}-2epochs", f"{CASSLE}-depth-2"]
    assert rows == [f"| {arm}" for arm in (*arms, *arms, *arms[1:])]  # tasks, sensitivity, use of ω
    used = text.partition("Does the projector use ω?")[2].partition("spectrum")[0]
    assert f"| {CASSLE} | 2 |" in used
    for arm, seeds in (("random-init_test_resnet", "2"), ("raw-pixels", "1")):
        assert cells(text, arm)[1] == seeds
        # Tasks, the same whitened, main directions, two kinds of R², sensitivity, spectrum.
        assert text.count(f"| {arm} |") == 7
    sensitivity = text.partition("Sensitivity at full strength")[2]
    found = [
        r.results["sensitivity"].metrics["crop"]["infonce_backbone"]
        - r.results["sensitivity"].metrics["original"]["infonce_backbone"]
        for r in records
        if r.arm == PLAIN
    ]
    assert cells(sensitivity, PLAIN)[3].startswith(f"{sum(found) / 2:.3f} ± ")
    rival = f"{PLAIN}-augself"
    for pair in ((CASSLE, PLAIN), (rival, PLAIN), (CASSLE, rival)):
        # Tasks, the same whitened, main directions, two kinds of R², sensitivity.
        assert text.count(f"| {' - '.join(pair)} |") == 6
        assert text.count(f"- {' against '.join(pair)}: better in") == 1
    # What people say about the published records has no place here.
    assert "a rule fixed before" not in text
    assert PLAIN not in used
    best = best_of([r for r in records if r.arm == CASSLE])
    assert f"{CASSLE} seed {best.seed} (" in page_text(records, "Found out.")
    assert text.count("| 0.24 | 0.0005 |") == 1
    figures = [line.partition("(")[2].rstrip(")") for line in text.splitlines() if line[:2] == "!["]
    assert {"study/tasks.png", "study/stages.png", "study/gallery_flags.png"} <= set(figures)
    for name in figures:
        assert Image.open(tmp_path / name).width > 400


def test_tasks_are_drawn_with_every_seed_and_error_bars(record: Record) -> None:
    other = dataclasses.replace(
        record,
        seed=1,
        results={
            "emoji64": dataclasses.replace(
                record.results["emoji64"], metrics={"flags": {"recall@1": 0.35}}
            )
        },
    )
    flags = TASKS[6]
    axis, *unused = tasks_figure([record, other], [record.arm, "not recorded"], [flags]).axes
    assert axis.get_title() == flags.title
    assert [axis.get_visible() for axis in unused] == [False] * 3
    [drawn] = axis.containers
    assert list(axis.lines[0].get_ydata()) == [25.0, 35.0]
    assert list(drawn.lines[0].get_ydata()) == [30.0]
    [bar] = drawn.lines[2][0].get_segments()
    assert bar[1][1] - bar[0][1] == pytest.approx(2 * 50**0.5)  # two standard deviations


def test_galleries_show_gains_before_losses(record: Record, emoji: Path) -> None:
    data = open_data("emoji64", emoji)
    task = next(task for task in data.tasks if task.name == "skin_tone")
    test, train = task.splits["test"].tolist(), task.splits["train"].tolist()

    def row(query: int, right: bool) -> list[int]:
        alike = [i for i in train if (task.targets[i] == task.targets[query]) == right]
        return [query, *alike[:2]]

    def with_rows(arm: str, *rights: bool) -> Record:
        rows = [row(query, right) for query, right in zip(test, rights, strict=False)]
        return dataclasses.replace(record, arm=arm, neighbours={"skin_tone": rows})

    old, new = with_rows("old", False, True, True), with_rows("new", True, True, False)
    figure = gallery_figure(data, "skin_tone", old, new)
    assert "of 3 queries" in figure.get_suptitle()
    assert "right for new only in 1, for old only in 1" in figure.get_suptitle()
    # A row is: query, two of old's, a gap, two of new's; here a gain, then a loss.
    dashed = [axis.spines["left"].get_linestyle() == "--" for axis in figure.axes]
    assert dashed == [False, True, True, False, False, False] + [False] * 4 + [True] * 2
    with pytest.raises(ConfigError, match="equally for every query"):
        gallery_figure(data, "skin_tone", old, old)


def test_equal_images_are_equally_right(record: Record, emoji: Path) -> None:
    data = open_data("emoji64", emoji)
    flags = next(task for task in data.tasks if task.name == "flags")
    (a, b, c), (query, other) = flags.splits["gallery"][:3].tolist(), flags.splits["query"][:2]
    assert flags.targets[a] == flags.targets[query] != flags.targets[b]

    def with_rows(arm: str, *rows: list[int]) -> Record:
        return dataclasses.replace(record, arm=arm, neighbours={"flags": [*rows]})

    old = with_rows("old", [int(query), b], [int(other), b])
    new = with_rows("new", [int(query), a], [int(other), c])
    title = gallery_figure(data, "flags", old, new).get_suptitle()
    assert "right for new only in 1, for old only in 1" in title
    images = [data.images[i] for i in range(len(data.images))]
    images[b] = images[a]
    title = gallery_figure(dataclasses.replace(data, images=images), "flags", old, new)
    assert "right for new only in 0, for old only in 1" in title.get_suptitle()


def test_without_main_arms_there_is_no_page(record: Record) -> None:
    with pytest.raises(ConfigError, match="no main arm"):
        page_text([dataclasses.replace(record, group="depth")])


@pytest.mark.skipif(not RECORDS.exists(), reason="the study has not been recorded")
def test_the_committed_page_is_fresh() -> None:
    findings = (ROOT / "benchmarks" / "study" / "findings.md").read_text("utf-8")
    assert (ROOT / "docs" / PAGE).read_text("utf-8") == page_text(load_records(RECORDS), findings)
