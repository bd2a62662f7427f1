"""The report: what is compared, what is shown, and that nothing in it can do harm."""

import base64
import dataclasses
import hashlib
import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.eval.main import run_from_cli
from cassle_zoo.eval.report.compare import Comparison, Entry, compare, read_entries
from cassle_zoo.eval.report.page import curves, render_report
from cassle_zoo.records import MeasuredData, MeasuredModel, Result

EVIL = '"><script>alert(1)</script>&amp;'
VOID = {"meta", "input", "img", "br", "wbr", "rect", "path", "polyline"}


def result(name: str = "model", top1: float = 0.5, **fields: Any) -> Result:
    base = Result(
        task="knn",
        model=MeasuredModel(name=name, sha256="a" * 64),
        data=MeasuredData(name="emoji64", sha256="b" * 64),
        protocol={"k-NN": "cosine, k=20"},
        metrics={"vendor": {"knn_top1": top1}},
        seed=0,
        versions={"torch": "2.6"},
        command=f"cassle-zoo eval knn {name}",
        seconds={"total": 3.0},
        created="2026-01-02T03:04:05+00:00",
    )
    return dataclasses.replace(base, **fields)


def comparisons(*results: Result) -> list[Comparison]:
    return compare([Entry(result=own, label=own.model.name) for own in results])


class Page(HTMLParser):
    """Text and tags, checked to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def test_table_marks_the_best_and_sets_baselines_apart() -> None:
    metrics = {"vendor": {"knn_top1": 0.75, "infonce": 2.0}, "flags": {"error": 0.25}}
    page = Page(
        render_report(
            "Title",
            comparisons(
                result("raw-pixels", 0.9), result("zeta", metrics=metrics), result("alpha", 0.75)
            ),
        )
    )
    assert page.rows == [
        ["★ best of the row", "alpha", "zeta", "raw-pixelsbaseline"],
        ["vendor knn_top1 (%)", "75.0", "75.0", "90.0\xa0★ best"],
        ["vendor infonce", "-", "2", "-"],
        ["flags error (%)", "-", "25.0", "-"],
    ]


def test_less_error_is_better_and_equal_numbers_are_both_best() -> None:
    values = {"a": 0.2, "b": 0.3, "c": 0.20001}
    results = [result(name, metrics={"t": {"error": value}}) for name, value in values.items()]
    row = Page(render_report("", comparisons(*results))).rows[1]
    assert row[1:] == ["20.0\xa0★ best", "30.0", "20.0\xa0★ best"]


def test_no_spread_is_the_best() -> None:
    names = ("5way_1shot_accuracy", "5way_1shot_accuracy_ci95", "1%_top1_std", "omega_mrr")
    results = [
        result(model, metrics={"t": dict.fromkeys(names, value)})
        for model, value in (("a", 0.2), ("b", 0.3))
    ]
    rows = Page(render_report("", comparisons(*results))).rows[1:]
    assert [["best" in cell for cell in row[1:]] for row in rows] == [
        [False, True],
        [False, False],
        [False, False],
        [False, True],
    ]


def test_protocol_command_and_versions_are_there() -> None:
    page = Page(render_report("", comparisons(result("one"), result("two"))))
    methods = {own["id"] for tag, own in page.tags if tag == "details"}
    links = {(own["href"] or "")[1:] for tag, own in page.tags if tag == "a"}
    assert len(methods) == 2
    assert methods < links <= {own.get("id") for _, own in page.tags}
    for text in ("cassle-zoo eval knn one", "cosine, k=20", "torch 2.6", "b" * 64, "a" * 64):
        assert text in page.text
    assert page.count("svg") == 1


def test_other_data_and_other_evaluations_stand_apart() -> None:
    other = MeasuredData(name="emoji64", sha256="c" * 64)
    found = comparisons(result(), result(data=other), result(task="few-shot"))
    assert [(part.task, part.data.sha256[0]) for part in found] == [
        ("few-shot", "b"),
        ("knn", "b"),
        ("knn", "c"),
    ]
    assert all("2 versions" in part.notes[0] for part in found)
    assert not comparisons(result(), result("other"))[0].notes


def test_different_protocols_and_weights_are_noted() -> None:
    own = {"k-NN": "cosine, k=5", "input": "3x32x32", "chosen w": "1"}
    changed = result(protocol=own, model=MeasuredModel(name="model", sha256="d" * 64))
    [part] = comparisons(result(), changed)
    assert part.notes == (
        "The protocols differ in: k-NN.",
        "Different weights go by the name of model.",
    )
    assert [entry.label for entry in part.entries] == [
        "model (weights aaaaaaaa)",
        "model (weights dddddddd)",
    ]


def test_runs_of_one_model_are_told_apart() -> None:
    seeds = comparisons(result(), result(seed=1, created="2027"))[0].entries
    assert [entry.label for entry in seeds] == ["model (seed 0)", "model (seed 1)"]
    times = comparisons(result(), result(created="2027"))[0].entries
    assert [entry.label for entry in times] == ["model (2026-01-02T03:04:05+00:00)", "model (2027)"]


def test_everything_is_escaped() -> None:
    evil = result(
        EVIL,
        task=EVIL,
        data=MeasuredData(name=EVIL, sha256=EVIL),
        protocol={EVIL: EVIL, "more": {EVIL: 1}},
        metrics={EVIL: {EVIL: 1.0}},
        versions={EVIL: EVIL},
        created=EVIL,
        series={EVIL: [1.0, 2.0]},
    )
    text = render_report(EVIL, comparisons(evil), [EVIL])
    page = Page(text)
    assert page.count("script") == 1
    assert text.count("alert(1)") > 10
    assert page.text.count(EVIL) > 10
    assert not any("alert" in name for _, attributes in page.tags for name in attributes)


def test_page_needs_nothing_else_and_is_always_the_same() -> None:
    series = {"curve": [3.0, 2.0, 1.0], "short": [1.0]}
    made = [render_report("T", comparisons(result(series=series))) for _ in range(2)]
    assert made[0] == made[1]
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import", made[0])
    labels = [own["aria-label"] for _, own in Page(made[0]).tags if own.get("role") == "img"]
    assert labels == ["vendor: knn_top1 (%): model 50.0", "curve: model from 3 to 1"]


def test_curves_stand_over_their_strengths() -> None:
    series = {"strength/crop": [0.0, 0.5, 1.0], "value/crop": [1, 2, 3], "nce/crop/b": [1.0, 2, 4]}
    [part] = comparisons(result(series={**series, "loss": [3.0, 2.0], "short": [1.0]}))
    assert curves(part.entries) == {
        "nce/crop/b": {"model": ([0.0, 0.5, 1.0], [1.0, 2, 4])},
        "loss": {"model": (range(1, 3), [3.0, 2.0])},
    }


def test_the_script_is_the_one_that_the_page_allows() -> None:
    text = render_report("T", comparisons(result()))
    [script] = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'; img-src data:" in text
    assert f"script-src 'sha256-{digest}'" in text


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result(series={"loss": [3.0, 2.0]}).save(tmp_path / "one.json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arguments = ["report", str(tmp_path), "-o", str(tmp_path / "report.html")]
    with pytest.raises(MissingDependencyError, match=r"cassle-zoo\[figures\].*--no-figures"):
        run_from_cli(arguments)
    assert not (tmp_path / "report.html").exists()
    assert run_from_cli([*arguments, "--no-figures"]) == 0
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.rows[1] == ["vendor knn_top1 (%)", "50.0"]
    assert not page.count("svg")


def test_command_reads_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "results" / "deeper"
    folder.mkdir(parents=True)
    Image.new("RGB", (3, 3), "red").save(folder / "one.left.png")
    result("one", files=["one.left.png", "one.html"]).save(folder / "one.json")
    (folder / "one.html").write_text("a page")
    result("two").save(tmp_path / "two.json")
    output = tmp_path / "site" / "report.html"
    arguments = [str(tmp_path / "results"), str(tmp_path / "two.json"), str(folder / "one.json")]
    assert run_from_cli(["report", *arguments, "-o", str(output), "--title", "Mine"]) == 0
    page = Page(output.read_text("utf-8"))
    assert page.rows[0][1:] == ["one", "two"]
    images = [own for tag, own in page.tags if tag == "img"]
    assert [own["alt"] for own in images] == ["left.png of one"]
    assert (images[0]["src"] or "").startswith("data:image/png;base64,")
    assert "one.html" in page.text
    assert str(tmp_path) not in output.read_text("utf-8")
    assert capsys.readouterr().out.strip() == str(output)


def test_what_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    result(files=["gone.png"]).save(tmp_path / "good.json")
    (tmp_path / "old.json").write_text('{"schema": 0}')
    (tmp_path / "torn.json").write_text("{")
    entries, problems = read_entries([tmp_path])
    assert [entry.label for entry in entries] == ["model"]
    assert [problem.split()[0] for problem in problems] == ["gone.png,", "old.json", "torn.json"]
    output = tmp_path / "report.html"
    assert run_from_cli(["report", str(tmp_path), "-o", str(output)]) == 1
    assert capsys.readouterr().err.count("left out: ") == 3
    assert Page(output.read_text("utf-8")).text.count("Left out:") == 3


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report RESULTS\.\.\. -o"):
        run_from_cli(["report"])
    with pytest.raises(ConfigError, match=r"folder.*name the page"):
        run_from_cli(["report", str(tmp_path), "-o", str(tmp_path)])
    with pytest.raises(DataError, match="no such file or folder"):
        read_entries([tmp_path / "nothing"])
    with pytest.raises(DataError, match="no recorded results"):
        read_entries([tmp_path])
