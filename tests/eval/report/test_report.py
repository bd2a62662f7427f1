"""The report: what is compared, what is shown, and that nothing in it can do harm."""

import base64
import dataclasses
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from results import make_result

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.eval.main import run_from_cli
from cassle_zoo.eval.report.compare import Comparison, Entry, compare, read_entries
from cassle_zoo.eval.report.evidence import columns_of, evidence
from cassle_zoo.eval.report.export import CSV_HEADER
from cassle_zoo.eval.report.page import curves, render_report, tables_of
from cassle_zoo.eval.scores import ScoreFile, Scores
from cassle_zoo.eval.statistics import permutation_test
from cassle_zoo.records import MeasuredData, MeasuredModel, Result

EVIL = '"><script>alert(1)</script>&amp;'
VOID = {"meta", "input", "img", "br", "wbr", "rect", "path", "polyline"}


def result(name: str = "model", top1: float = 0.5, **fields: Any) -> Result:
    base = make_result(
        name, "a" * 64, "b" * 64,
        task="knn",
        protocol={"k-NN": "cosine, k=20"},
        metrics={"vendor": {"knn_top1": top1}},
        versions={"torch": "2.6"},
        command=f"cassle-zoo eval knn {name}",
        created="2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    return dataclasses.replace(base, **fields)


def comparisons(
    *results: Result, scores: Mapping[str, ScoreFile] | None = None
) -> list[Comparison]:
    known = scores or {}
    return compare(
        [
            Entry(result=own, label=own.model.name, scores=known.get(own.model.name))
            for own in results
        ]
    )


def right(count: int, metric: str = "knn_top1", task: str = "vendor", of: int = 1000) -> ScoreFile:
    """Scores of images, a thousand of them unless said, of which the first `count` are right."""
    values = (torch.arange(of) < count).to(torch.uint8)
    return ScoreFile(scores=(Scores(task=task, rows=torch.arange(of), values={metric: values}),))


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


def page_of(*results: Result, scores: Mapping[str, ScoreFile] | None = None) -> Page:
    return Page(render_report("", tables_of(comparisons(*results, scores=scores)), figures=False))


def test_table_marks_the_best_and_sets_baselines_apart() -> None:
    metrics = {"vendor": {"knn_top1": 0.75, "infonce": 2.0}, "flags": {"error": 0.25}}
    page = Page(
        render_report(
            "Title",
            tables_of(
                comparisons(
                    result("raw-pixels", 0.9),
                    result("zeta", metrics=metrics),
                    result("alpha", 0.75),
                    scores={"raw-pixels": right(900), "zeta": right(750), "alpha": right(750)},
                )
            ),
        )
    )
    assert page.rows[0] == [
        "★ best, ≈ not told apart from it",
        *("alpha", "zeta", "raw-pixelsbaseline"),
    ]
    assert page.rows[1][0].startswith("vendor k-NN: top-1 accuracy (%) ↑ higher is better")
    assert page.rows[1][0].endswith("similar images of training and validation. 1,000 images.")
    assert [cell[:6] for cell in page.rows[1][1:]] == ["75.072", "75.072", "90.0\xa0★"]
    assert [row[1:] for row in page.rows[2:4]] == [["-", "2", "-"], ["-", "25.0", "-"]]
    assert page.rows[3][0].startswith("flags error (%) ↓ lower is better")


def marks(*values: float, metric: str, scores: Mapping[str, ScoreFile] | None = None) -> str:
    """Return a letter per model: b best, t tied, - nothing."""
    results = [
        result(chr(97 + place), metrics={"t": {metric: value}})
        for place, value in enumerate(values)
    ]
    cells = page_of(*results, scores=scores).rows[1][1:]
    return "".join("b" if "★" in cell else "t" if "≈" in cell else "-" for cell in cells)


def test_a_winner_is_marked_only_if_the_interval_excludes_zero() -> None:
    def scored(*counts: int) -> dict[str, ScoreFile]:
        return {chr(97 + p): right(c, "knn_top1", "t") for p, c in enumerate(counts)}

    def of(*counts: int) -> str:
        values = [count / 1000 for count in counts]
        return marks(*values, metric="knn_top1", scores=scored(*counts))

    assert of(800, 700, 600) == "b--"
    assert of(703, 700, 600) == "tt-"  # three images
    assert of(704, 700) == "tt"  # four: the interval excludes 0, but McNemar's p is 0.06
    assert of(706, 700) == "b-"  # six: p 0.02
    assert of(700, 700) == "tt"
    assert marks(0.8, 0.2, metric="knn_top1") == "--"  # nothing to test with
    assert marks(0.8, 0.2, metric="knn_top1", scores={"a": right(800, "knn_top1", "t")}) == "--"


def test_a_difference_of_r2_in_the_fifth_decimal_is_no_win() -> None:
    targets = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()

    def file(shift: float) -> ScoreFile:
        outputs = targets.mean(0).expand_as(targets) + shift
        own = Scores(task="t", rows=torch.arange(200), outputs=outputs, targets=targets)
        return ScoreFile(scores=(own,))

    assert (
        marks(-7.5e-05, -8e-05, metric="r2", scores={"a": file(0.0087), "b": file(0.009)}) == "tt"
    )
    assert marks(-7.5e-05, -0.3, metric="r2", scores={"a": file(0.0087), "b": file(0.6)}) == "b-"


def test_means_over_classes_are_tested_as_such() -> None:
    metric, labels = "knn_mean_per_class", torch.tensor([0] * 30 + [1] * 6)
    right = {"a": (20, 6), "b": (24, 2)}
    values = {
        name: torch.cat([torch.arange(30) < common, torch.arange(6) < rare]).double()
        for name, (common, rare) in right.items()
    }
    means = {name: (common / 30 + rare / 6) / 2 for name, (common, rare) in right.items()}
    shared: dict[str, Any] = {"task": "t", "rows": torch.arange(36), "labels": labels}
    scores = {
        name: ScoreFile(scores=(Scores(**shared, values={metric: own}, by_class=(metric,)),))
        for name, own in values.items()
    }
    results = [result(name, metrics={"t": {metric: mean}}) for name, mean in means.items()]
    [part] = comparisons(*results, scores=scores)
    [row] = evidence(part, columns_of(part))
    [difference] = row.differences
    assert difference.interval.value == pytest.approx(means["a"] - means["b"])
    assert difference.p == permutation_test(
        values["b"][:, None], values["a"][:, None],
        strata=labels, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def test_less_error_is_better() -> None:
    scores = {"a": right(200, "error", "t"), "b": right(300, "error", "t")}
    assert marks(0.2, 0.3, metric="error", scores=scores) == "b-"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("5way_1shot_accuracy", "-b"),
        ("5way_1shot_accuracy_ci95", "--"),
        ("1%_top1_std", "--"),
        ("omega_mrr", "-b"),
    ],
)
def test_no_spread_is_the_best(metric: str, expected: str) -> None:
    scores = {"a": right(200, metric, "t"), "b": right(300, metric, "t")}
    assert marks(0.2, 0.3, metric=metric, scores=scores) == expected


def test_what_was_measured_differently_is_not_compared() -> None:
    own = {"k-NN": "cosine, k=5"}
    scores = {"a": right(800), "b": right(200)}
    found = comparisons(result("a", 0.8), result("b", 0.2, protocol=own), scores=scores)
    assert found[0].notes == (
        "The protocols differ in k-NN: “k=20” of a, but “k=5” of b. What was not measured in the "
        "same way is not compared, and no winner is marked.",
    )
    page = Page(render_report("", tables_of(found), figures=False))
    assert "★" not in "".join(page.rows[1])
    assert "not measured in the same way" in page.text
    # One that is always right has scores, though no interval.
    scores = {"a": right(1000), "b": right(200)}
    found = comparisons(result("a", 1.0), result("b", 0.2, protocol=own), scores=scores)
    page = Page(render_report("", tables_of(found), figures=False))
    assert "not tested against b: they were not measured in the same way" in page.text
    scores = {"a": right(1000), "b": right(1000)}
    found = comparisons(result("a", 1.0), result("b", 1.0, protocol=own), scores=scores)
    page = Page(render_report("", tables_of(found), figures=False))
    assert "as there are too few images or all score alike" in page.text


def test_runs_of_a_model_have_a_mean_and_an_interval() -> None:
    runs = [
        result("a", top1, model=MeasuredModel(name="a", sha256=str(seed)), seed=seed)
        for seed, top1 in enumerate((0.5, 0.6, 0.7))
    ]
    others = [
        result("b", top1, model=MeasuredModel(name="b", sha256=str(seed)), seed=seed)
        for seed, top1 in enumerate((0.1, 0.12, 0.11))
    ]
    [part] = comparisons(*runs, *others, result("c", 0.9))
    columns = columns_of(part)
    assert [column.label for column in columns] == ["a (3 runs)", "b (3 runs)", "c"]
    [row] = evidence(part, columns)
    interval = row.cells[0].interval
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(
        (0.6 - 0.248414, 0.6 + 0.248414), abs=1e-6
    )
    assert [cell.mark for cell in row.cells] == ["", "", ""]  # a single run against several
    [row] = evidence(part, columns[:2])
    assert [cell.mark for cell in row.cells] == ["best", ""]
    text = Page(render_report("", tables_of([part]), figures=False)).text
    assert "a (seed 1" in text or "a (weights" in text
    assert "against a (3 runs), b (3 runs): a single run cannot be tested against several" in text


def test_of_other_networks_training_or_input_no_mean_is_taken() -> None:
    def run(seed: int, **protocol: str) -> Result:
        shared = {"k-NN": "cosine, k=20", "network": "resnet18, not trained", "input": "3x64x64"}
        model = MeasuredModel(name="a", sha256=str(seed))
        command = f"cassle-zoo eval knn local-dir:{seed}/a --data photos"
        return result(model=model, seed=seed, protocol=shared | protocol, command=command)

    def columns(*results: Result) -> list[str]:
        [part] = comparisons(*results)
        return [column.label for column in columns_of(part)]

    assert columns(run(0), run(1)) == ["a (2 runs)"]
    splits = "of every class 0.2 to test, seed 0"  # another seed
    assert columns(run(0, splits=splits), run(1, splits=splits)) == ["a (2 runs)"]
    for part in ("network", "input"):
        found = columns(run(0), run(1, **{part: "another"}))
        assert [label.split(",")[0] for label in found] == ["a (local-dir:0/a", "a (local-dir:1/a"]
        [comparison] = comparisons(run(0), run(1, **{part: "another"}))
        assert not any("protocols differ" in note for note in comparison.notes)


def test_the_same_run_measured_again_is_no_other_run() -> None:
    [part] = comparisons(result("a"), result("a", created="2027"))
    assert len(columns_of(part)) == 2


def test_equal_runs_are_no_certainty() -> None:
    def runs(name: str, top1: float, weights: str) -> list[Result]:
        return [
            result(name, top1, model=MeasuredModel(name=name, sha256=own), seed=seed)
            for seed, own in enumerate(weights)
        ]

    # A linear probe does not depend on the seed.
    [part] = comparisons(*runs("a", 0.8, "11"), *runs("b", 0.79, "22"))
    assert [column.label for column in columns_of(part)] == [
        "a (seed 0)", "a (seed 1)", "b (seed 0)", "b (seed 1)",
    ]  # fmt: skip
    # Of other weights, equal values are chance.
    [part] = comparisons(*runs("a", 0.8, "12"), *runs("b", 0.79, "34"))
    columns = columns_of(part)
    assert [column.label for column in columns] == ["a (2 runs)", "b (2 runs)"]
    [row] = evidence(part, columns)
    assert [(cell.interval, cell.mark) for cell in row.cells] == [(None, ""), (None, "")]
    assert not row.differences
    text = " ".join(Page(render_report("", tables_of([part]), figures=False)).text.split())
    assert "a (2 runs) has the highest value, 80.0 %; whether that is chance is not known" in text
    assert "not tested against b (2 runs): runs of equal values do not say" in text


def test_sensitivity_by_several_measures_is_drawn_apart() -> None:
    def measured(name: str, measure: str) -> Result:
        curve = {f"{measure}/crop/backbone": [1.0, 2.0]}
        return result(name, series={"strength/crop": [0.0, 0.5], "value/crop": [1.0, 0.6], **curve})

    def drawn(*results: Result) -> list[str | None]:
        page = Page(render_report("", tables_of(comparisons(*results))))
        labels = [own["aria-label"] for _, own in page.tags if own.get("role") == "img"]
        return [label for label in labels if label and label.startswith("Sensitivity")]

    by_strength = "Sensitivity of the backbone by strength of the augmentation"
    by_stage = "Sensitivity at the greatest strength by network stage"
    one, other = measured("a", "infonce"), measured("b", "cca")
    assert drawn(one) == [f"{by_strength}: a", f"{by_stage}: a"]
    assert drawn(one, other) == [
        f"{by_strength}, InfoNCE: a", f"{by_stage}, InfoNCE: a",
        f"{by_strength}, cca: b", f"{by_stage}, cca: b",
    ]  # fmt: skip


def test_the_page_says_what_is_better_by_how_much_and_how_surely() -> None:
    results = [result("a", 0.80), result("b", 0.79), result("raw-pixels", 0.3)]
    scores = {"a": right(800), "b": right(790), "raw-pixels": right(300)}
    text = page_of(*results, scores=scores).text
    text = " ".join(text.split())
    assert "a is better than all others: 80.0 % (95 % interval 77." in text
    assert "better than b: +1.0 points, interval +0." in text
    assert "vendor, k-NN: top-1 accuracy: 1,000 images; a true difference of 1.0 points" in text
    scores["b"] = right(798)
    tied = " ".join(page_of(*results, scores=scores).text.split())
    assert "No winner. a has the highest value, 80.0 %" in tied
    alone = " ".join(page_of(*results[:1], scores=scores).text.split())
    assert "a: 80.0 % (95 % interval" in alone
    # On images of its own another model would have twice the variance: 2.8 * sqrt(2 * 0.16 / n).
    assert re.search(r"difference of (4\.9|5\.\d) points would be found in 4 of 5", alone)
    old = " ".join(page_of(*results).text.split())
    assert "no scores of single images were recorded" in old


def test_six_of_six_are_no_certainty() -> None:
    """All resamples of images that are all right are right; that is no interval from 100 to 100."""
    results = [result("a", 1.0), result("b", 1.0), result("raw-pixels", 2 / 6)]
    scores = {"a": right(6, of=6), "b": right(6, of=6), "raw-pixels": right(2, of=6)}
    text = page_of(*results, scores=scores).text
    text = " ".join(text.split())
    assert "No winner. a and b have the same value, 100.0 %." in text
    assert "not told apart from b: +0.0 points on every image" in text
    assert "not told apart from raw-pixels: +66.7 points, interval +" in text
    assert "100.0 to 100.0" not in text


def test_protocol_command_and_versions_are_there() -> None:
    page = Page(render_report("", tables_of(comparisons(result("one"), result("two")))))
    methods = {own["id"] for tag, own in page.tags if tag == "details" and "id" in own}
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
        "The protocols differ in k-NN: “k=20” of model, but “k=5” of model. What was not measured "
        "in the same way is not compared, and no winner is marked.",
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
    text = render_report(EVIL, tables_of(comparisons(evil)), [EVIL])
    page = Page(text)
    assert page.count("script") == 1
    assert text.count("alert(1)") > 10
    assert page.text.count(EVIL) > 10
    assert not any("alert" in name for _, attributes in page.tags for name in attributes)


def test_page_needs_nothing_else_and_is_always_the_same() -> None:
    series = {"curve": [3.0, 2.0, 1.0], "short": [1.0]}
    made = [render_report("T", tables_of(comparisons(result(series=series)))) for _ in range(2)]
    assert made[0] == made[1]
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import", made[0])
    labels = [own["aria-label"] for _, own in Page(made[0]).tags if own.get("role") == "img"]
    assert labels == [
        "vendor: k-NN: top-1 accuracy (%): model 50.0",
        "curve: model from 3 to 1",
    ]


def test_curves_stand_over_their_strengths() -> None:
    series = {"strength/crop": [0.0, 0.5, 1.0], "value/crop": [1, 2, 3], "nce/crop/b": [1.0, 2, 4]}
    [part] = comparisons(result(series={**series, "loss": [3.0, 2.0], "short": [1.0]}))
    assert curves(part.entries) == {
        "nce/crop/b": {"model": ([0.0, 0.5, 1.0], [1.0, 2, 4])},
        "loss": {"model": (range(1, 3), [3.0, 2.0])},
    }


def test_the_script_is_the_one_that_the_page_allows() -> None:
    text = render_report("T", tables_of(comparisons(result())))
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
    assert page.rows[1][1:] == ["50.0"]
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


def test_command_writes_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    result("one").save(tmp_path / "one.json")
    page, table, tex = (tmp_path / name for name in ("page.html", "new/a.csv", "new/b.tex"))
    arguments = ["report", str(tmp_path / "one.json"), "-o", str(page)]
    assert run_from_cli([*arguments, "--csv", str(table), "--latex", str(tex)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(page), str(table), str(tex)]
    assert table.read_text("utf-8").splitlines()[0] == ",".join(CSV_HEADER)
    assert r"\begin{tabular}" in tex.read_text("utf-8")
    for option in ("--csv", "--latex"):
        with pytest.raises(ConfigError, match=f"{option} .*new is a folder"):
            run_from_cli([*arguments, option, str(tmp_path / "new")])
        with pytest.raises(ConfigError, match=f"-o, {option} name the same file"):
            run_from_cli([*arguments, option, str(page)])


def test_what_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    result(files=["gone.png"]).save(tmp_path / "good.json")
    (tmp_path / "old.json").write_text('{"schema": 0}')
    (tmp_path / "torn.json").write_text("{")
    for hidden in (".cache/torn.json", ".git/objects/torn.json", "._torn.json"):
        (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / hidden).write_text("{")
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
    with pytest.raises(ConfigError, match=r"-o .*is a folder; name the file"):
        run_from_cli(["report", str(tmp_path), "-o", str(tmp_path)])
    with pytest.raises(DataError, match="no such file or folder"):
        read_entries([tmp_path / "nothing"])
    with pytest.raises(DataError, match="no recorded results"):
        read_entries([tmp_path])
