"""Classes, confusions, images, maps, exports and words of the report."""

import csv
import dataclasses
import importlib.util
import io
import re
from collections.abc import Mapping

import pytest
import torch
from builders import encoded, make_image
from results import make_result

from cassle_zoo.common.errors import MissingDependencyError
from cassle_zoo.eval.report import sensitivity_figures
from cassle_zoo.eval.report.compare import Comparison, Entry, compare
from cassle_zoo.eval.report.details import class_details, maps
from cassle_zoo.eval.report.evidence import Column, Row, columns_of, evidence
from cassle_zoo.eval.report.export import CSV_HEADER, latex, to_csv, to_latex
from cassle_zoo.eval.report.glossary import describe, format_difference
from cassle_zoo.eval.report.page import render_report
from cassle_zoo.eval.scores import ScoreFile, Scores

EVIL = "<b>&\"'"
CLASSES = (EVIL, "dog", "owl")
LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2] * 10)


def file(wrong: Mapping[int, int]) -> ScoreFile:
    """Scores of 80 images, those of `wrong` by place taken for that class, sure as their place."""
    predicted = LABELS.clone()
    for place, label in wrong.items():
        predicted[place] = label
    right = (predicted == LABELS).to(torch.uint8)
    own = Scores(
        task="vendor",
        rows=torch.arange(80) + 100,
        values={"knn_top1": right, "knn_mean_per_class": right},
        by_class=("knn_mean_per_class",),
        labels=LABELS,
        predicted=predicted,
        confidence=torch.arange(80) / 100,
        classes=CLASSES,
    )
    thumbnail = encoded(make_image(), "WEBP")
    return ScoreFile(
        scores=(own,),
        names={index: f"{EVIL}{index}" for index in range(100, 180)},
        thumbnails={100 + place: thumbnail for place in [*wrong, 5, 6]},
        sample=torch.tensor([100, 101, 105, 106]),
        sample_features=torch.tensor([[0.0, 1, 2], [1, 0, 2], [4, 0, 1], [2, 1, 0]]),
    )


FILES = {"first": file({0: 1, 7: 0}), EVIL: file({0: 1, 1: 1, 2: 0, 79: 1})}


def comparison(files: Mapping[str, ScoreFile] = FILES) -> Comparison:
    entries = []
    for name, own in files.items():
        right = float(own.scores[0].values["knn_top1"].double().mean())
        metrics = {"vendor": {"knn_top1": right, "knn_mean_per_class": right}}
        result = make_result(name, task="knn", metrics=metrics)
        entries.append(Entry(result=result, label=name, scores=own))
    return compare(entries)[0]


@pytest.fixture(scope="module")
def table() -> tuple[Comparison, list[Column], list[Row]]:
    own = comparison()
    columns = columns_of(own)
    return own, columns, evidence(own, columns)


def test_classes_confusions_and_images(table) -> None:
    _, columns, rows = table
    [own] = class_details(rows, columns)  # once, though both metrics have the scores
    assert (own["task"], own["label"]) == ("vendor", "k-NN")
    assert own["columns"] == ["first", EVIL]
    assert [(row["name"], row["count"]) for row in own["classes"]] == [
        (EVIL, 20), ("owl", 30), ("dog", 30),
    ]  # fmt: skip
    assert own["classes"][0]["rates"] == [0.95, 0.9]
    worse = own["models"][1]
    assert (worse["wrong"], worse["count"]) == (4, 80)
    assert worse["confusions"][0] == {
        "label": EVIL, "predicted": "dog", "count": 2, "percent": "10",
    }  # fmt: skip
    assert [cells for cells, _ in worse["matrix"][0]["cells"]] == [18, 2, 0]
    assert [image["name"] for image in worse["mistakes"]] == [
        f"{EVIL}{index}" for index in (179, 102, 101, 100)
    ]
    assert worse["mistakes"][0]["answers"] == [(EVIL, "dog", "79 %")]
    [pair] = own["disagreements"]
    assert [(side["label"], side["count"]) for side in pair["sides"]] == [("first", 3), (EVIL, 1)]
    assert [image["name"] for image in pair["sides"][1]["images"]] == [f"{EVIL}107"]


def test_many_classes_have_no_matrix() -> None:
    labels = 99_970 + torch.arange(60) % 30  # the matrix would fill the memory
    own = Scores(
        task="vendor", rows=torch.arange(60), labels=labels, predicted=labels.roll(1),
        confidence=torch.ones(60), values={"knn_top1": torch.zeros(60)},
    )  # fmt: skip
    part = comparison({"one": ScoreFile(scores=(own,))})
    columns = columns_of(part)
    [details] = class_details(evidence(part, columns), columns)
    assert not details["models"][0]["matrix"]
    assert len(details["models"][0]["confusions"]) == 12
    assert details["models"][0]["confusions"][0] == {
        "label": "class 99970", "predicted": "class 99999", "count": 2, "percent": "100",
    }  # fmt: skip
    assert details["classes"][0]["name"] == "class 99970"


def test_the_map_has_every_sampled_image_in_both_models(table) -> None:
    _, columns, rows = table
    found = maps(rows, columns)
    assert found is not None
    [task] = found["tasks"]
    assert list(task["classes"]) == [EVIL, "dog", "owl"]
    assert len(set(task["classes"].values())) == 3
    assert [[p["index"] for p in own["points"]] for own in task["maps"]] == [
        [100, 101, 105, 106]
    ] * 2
    places = [(float(p["x"]), float(p["y"])) for p in task["maps"][0]["points"]]
    assert all(4 <= value <= 196 for place in places for value in place)
    assert places[2][0] == 196
    assert found["images"][100]["name"] == f"{EVIL}100"
    assert not maps(rows, [Column(label="a", entries=(Entry(result=make_result(), label="a"),))])
    sampled, three = torch.tensor([100, 101, 105]), torch.eye(3)
    few = comparison(
        {"one": dataclasses.replace(FILES["first"], sample=sampled, sample_features=three)}
    )
    assert not maps(rows, columns_of(few)), "UMAP fails with three"


def test_umap_is_an_extra(table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"cassle-zoo\[umap\].*or use 'pca'"):
        maps(table[2], table[1], "umap")


@pytest.mark.slow
def test_umap_keeps_groups_together() -> None:
    pytest.importorskip("umap")
    own = file({})
    groups = torch.arange(80) % 2
    features = torch.randn(80, 5, generator=torch.Generator().manual_seed(0)) + 20 * groups[:, None]
    sampled = ScoreFile(scores=own.scores, sample=torch.arange(80) + 100, sample_features=features)
    part = comparison({"one": sampled})
    columns = columns_of(part)
    found = [maps(evidence(part, columns), columns, "umap") for _ in range(2)]
    assert found[0] == found[1] is not None
    points = found[0]["tasks"][0]["maps"][0]["points"]  # type: ignore[index]
    places = torch.tensor([[float(p["x"]), float(p["y"])] for p in points])
    near = torch.cdist(places, places).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(groups[near], groups)


def test_everything_on_the_page_is_escaped_and_inside_it(table) -> None:
    text = render_report("T", [table], figures=False)
    assert EVIL not in text
    assert text.count("&lt;b&gt;&amp;") > 20
    assert "data:image/webp;base64," in text
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import", text)
    assert render_report("T", [table], figures=False) == text


def test_csv_has_every_number(table) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv([table]))))
    assert tuple(lines[0]) == CSV_HEADER
    assert [(line["model"], line["metric"], line["mark"]) for line in lines] == [
        (EVIL, "knn_top1", "tied"),
        ("first", "knn_top1", "tied"),
        (EVIL, "knn_mean_per_class", "tied"),
        ("first", "knn_mean_per_class", "tied"),
    ]
    row = table[2][0]
    interval = row.differences[0].interval
    assert float(lines[1]["value"]) == 0.975
    assert float(lines[0]["difference_from_best"]) == -0.025
    assert float(lines[0]["difference_low"]) == pytest.approx(-interval.high, abs=1e-6)
    assert float(lines[0]["low95"]) == pytest.approx(row.cells[0].interval.low, abs=1e-6)
    assert lines[0]["n"] == "80"


def test_csv_rounds_no_small_number_to_zero() -> None:
    [part] = compare([Entry(result=make_result(metrics={"t": {"mae": 3.25e-7}}), label="a")])
    columns = columns_of(part)
    [line] = csv.DictReader(io.StringIO(to_csv([(part, columns, evidence(part, columns))])))
    assert float(line["value"]) == 3.25e-7


def test_every_model_has_its_own_count() -> None:
    files = {}
    for name, count in (("few", 40), ("many", 2000)):
        values = {"knn_top1": torch.arange(count) % 7 / 7}
        own = Scores(task="vendor", unit="episode", rows=torch.arange(count), values=values)
        files[name] = ScoreFile(scores=(own,))
    entries = [
        Entry(result=make_result(name, metrics={"vendor": {"knn_top1": 0.4}}), label=name, scores=s)
        for name, s in files.items()
    ]
    [part] = compare(entries)
    columns = columns_of(part)
    [row] = evidence(part, columns)
    assert row.counted == "40 or 2,000 episodes"
    lines = csv.DictReader(io.StringIO(to_csv([(part, columns, [row])])))
    assert [(line["model"], line["n"]) for line in lines] == [("few", "40"), ("many", "2000")]


def test_latex_is_escaped_and_balanced(table) -> None:
    text = to_latex([table])
    assert latex("a_b%{c}\\d~^$#&\nω") == (
        r"a\_b\%\{c\}\textbackslash{}d\textasciitilde{}\textasciicircum{}\$\#\& $\omega$"
    )
    assert r"vendor, k-NN: top-1 accuracy (\%)" in text
    assert r"97.5 {\scriptsize [" in text
    assert r"\textbf" not in text  # nobody wins
    assert text.count(r"\begin") == text.count(r"\end") == 2
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}


METRICS = (
    *("linear_top1", "linear_top5", "linear_mean_per_class", "knn_top1", "knn_mean_per_class"),
    *("finetune_top1", "finetune_10%_top1", "1%_top1", "1%_top1_std", "10%_mean_per_class"),
    *("5way_1shot_accuracy", "5way_1shot_accuracy_ci95", "recall@10", "mAP", "mAP50", "mAP75"),
    *("cat AP50", "r2", "mae", "r2_single", "r2_pair", "omega_top1", "omega_mrr", "alpha_req"),
    *("infonce_backbone", "infonce_projector", "cca_backbone", "mean_margin_projector"),
    *("projector_cosine_right", "rankme", "components_95", "mrr"),
)


def test_every_metric_of_every_protocol_is_explained() -> None:
    for metric in METRICS:
        info = describe(metric)
        assert info.gloss != describe("unknown").gloss, metric
    assert describe("linear_top1").label == "linear probe: top-1 accuracy"
    assert describe("finetune_10%_top1").label == "fine-tuning, 10% of labels: top-1 accuracy"
    assert (describe("mae").arrow, describe("recall@1").unit) == ("↓ lower is better", "%")
    assert describe("infonce_backbone").arrow == ""
    assert format_difference("knn_top1", -0.0123) == "−1.2"
    assert format_difference("r2", 7.5e-05) == "+7.5e−05"


def test_sensitivity_of_several_models_is_in_one_figure() -> None:
    strengths = {"strength/crop": [0.0, 0.5, 1.0], "strength/flip": [1.0]}
    series = {
        name: {
            **strengths,
            "infonce/crop/backbone": [0.1, 0.2, top],
            "infonce/flip/backbone": [1.0],
        }
        for name, top in (("a", 0.3), ("b", 0.4))
    }
    figure = sensitivity_figures.overlay_figure(series)
    assert figure is not None
    [axis] = [axis for axis in figure.axes if axis.get_visible()]
    assert axis.get_title() == "crop"
    assert [line.get_label() for line in axis.get_lines()] == ["a", "b"]
    assert sensitivity_figures.overlay_figure(series, "projector") is None
