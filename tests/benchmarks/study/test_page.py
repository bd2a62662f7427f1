import dataclasses
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.study.__main__ import main
from benchmarks.study.page import PAGE, TABLES, page_texts
from benchmarks.study.records import RECORDS, Record, best_of, load_courses, load_records
from benchmarks.study.runner import StudyRunner
from cassle_zoo.common.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
PLAIN, CASSLE = "test_resnet_simclr", "test_resnet_cassle_simclr"


def cells(text: str, row: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
def test_the_page_shows_what_was_recorded(finished: StudyRunner, tmp_path: Path) -> None:
    argv = ["page", "--data", str(finished.data), "--records", str(finished.output / "records")]
    assert main([*argv, "-o", str(tmp_path)]) == 0
    page, text = ((tmp_path / name).read_text() for name in (PAGE, TABLES))
    records = load_records(finished.output / "records")
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
    course = text.partition("While arms train")[2]
    assert cells(course, f"{PLAIN}, 1 epochs")[1:3] == ["1", "2"]
    assert "Trained for longer" not in text
    more = [record for record in records if record.group == "main" and record.seed == 0]
    both: dict[str, Any] = {
        "arm": f"{CASSLE}-augself",
        "group": "methods",
        "against": f"{PLAIN}-augself",
    }
    more.append(dataclasses.replace(next(r for r in more if r.is_conditioned), **both))
    more = [dataclasses.replace(r, settings={**r.settings, "optim": {"epochs": 9}}) for r in more]
    longer = page_texts(records, courses=more)[TABLES].partition("Trained for longer")[2]
    assert cells(longer, f"{CASSLE}, 1 epochs - {PLAIN}, 1 epochs")
    value = 100 * by[CASSLE, 0]["subcategory"]["linear_top1"]
    for arm in (CASSLE, both["arm"]):
        assert cells(longer, f"{arm}, 9 epochs")[1:3] == ["1", f"{value:.1f}"]
    assert cells(longer, f"{both['arm']}, 9 epochs - {both['against']}, 9 epochs")
    sensitivity = text.partition("Sensitivity at full strength")[2]
    found = [
        r.results["sensitivity"].metrics["crop"]["infonce_backbone"]
        - r.results["sensitivity"].metrics["original"]["infonce_backbone"]
        for r in records
        if r.arm == PLAIN
    ]
    assert cells(sensitivity, PLAIN)[3].startswith(f"{sum(found) / 2:.3f} ± ")
    augself = f"{PLAIN}-augself"
    for pair in ((CASSLE, PLAIN), (augself, PLAIN), (CASSLE, augself)):
        # Tasks, the same whitened, main directions, two kinds of R², sensitivity.
        assert text.count(f"| {' - '.join(pair)} |") == 6
        assert text.count(f"- {' against '.join(pair)}: better in") == 1
    # The findings are about the published records only.
    assert "a rule fixed before" not in text
    assert PLAIN not in used
    best = best_of([r for r in records if r.arm == CASSLE])
    assert f"{CASSLE}, seed {best.seed} (" in page_texts(records, "Why?\n\nFound out.")[TABLES]
    assert text.count("| 0.24 | 0.0005 |") == 1
    published = page_texts(records, "Why?\n\nFound out.")[PAGE]
    assert published.index("Why?") < published.index("## Setting") < published.index("Found out.")
    lines = [*page.splitlines(), *text.splitlines()]
    figures = {line.partition("(")[2].rstrip(")") for line in lines if line[:2] == "!["}
    assert {f"study/{n}.png" for n in ("tasks", "course", "stages", "gallery_flags")} <= figures
    for name in figures:
        assert Image.open(tmp_path / name).width > 400


def test_without_main_arms_there_is_no_page(record: Record) -> None:
    with pytest.raises(ConfigError, match="no main arm"):
        page_texts([dataclasses.replace(record, group="depth")])


def test_the_committed_pages_are_fresh() -> None:
    findings = (ROOT / "benchmarks" / "study" / "findings.md").read_text("utf-8")
    for name, text in page_texts(load_records(RECORDS), findings, load_courses(RECORDS)).items():
        assert (ROOT / "docs" / name).read_text("utf-8") == text


def test_the_page_can_be_read_in_a_few_minutes() -> None:
    assert len((ROOT / "docs" / PAGE).read_text("utf-8").split()) <= 1500
