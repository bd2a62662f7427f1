"""The pages in a real browser: filters work, and nothing is wider than a phone."""

import html
import re
import subprocess
from pathlib import Path

import pytest
import torch
from builders import encoded, make_image
from chromium import BROWSER, NAMES, OPTIONS
from PIL import Image
from results import make_result

from cassle_zoo.eval.report.compare import Entry, compare
from cassle_zoo.eval.report.page import render_report, tables_of
from cassle_zoo.eval.scores import ScoreFile, Scores
from cassle_zoo.features.gallery import GalleryItem, GalleryList, GalleryRow, gallery_page

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)}")

TYPE = """
const typed = document.querySelector('input');
typed.value = 'WORDS'; typed.dispatchEvent(new Event('input', {bubbles: true}));
"""
MEASURE = """
const root = document.documentElement; root.dataset.wide = root.scrollWidth - root.clientWidth;
"""


def visit(
    folder: Path, page: str, *, fragment: str = "", width: int = 1000, probe: str = ""
) -> str:
    """Return the document as it is after the page's script, and then `probe`, have run."""
    if probe:
        page = re.sub(r'<meta http-equiv.*?">', "", page, flags=re.DOTALL)
        page = page.replace("</body>", f"<script>{probe}</script></body>")
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    profile, size = f"--user-data-dir={folder / 'profile'}", f"--window-size={width},800"
    command = [str(BROWSER), *OPTIONS, profile, size, "--dump-dom", f"{path.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def shown(document: str) -> list[str]:
    """Texts of what the filter left."""
    tags = re.findall(r"<[a-z]+ [^>]*data-text=[^>]*>", document)
    texts = [re.search(r'data-text="([^"]*)"', tag) for tag in tags if " hidden" not in tag]
    return [html.unescape(text[1]) for text in texts if text]


@pytest.fixture(scope="module")
def gallery() -> str:
    def item(label: str) -> GalleryItem:
        image = Image.new("RGB", (64, 64), "red")
        return GalleryItem(image=image, name=f"folder/{label}.png", label=label, cosine=0.9)

    rows = [
        GalleryRow(query=item(query), lists=[GalleryList(found=[item(found)] * 8)])
        for query, found in [("Cat <b>", "Cat <b>"), ("dog", "horse"), ("horse", "cow")]
    ]
    return gallery_page("A title", rows, summary="A summary", marked=True)


@pytest.fixture(scope="module")
def report() -> str:
    results = [
        make_result(
            name,
            task="sensitivity",
            protocol={"about": "long " * 50 + "x" * 300},
            metrics={task: {"knn_top1": 0.5} for task in ("vendor", "flags")},
            command="cassle-zoo eval " + "y" * 300,
            series={"curve": [1.0, 2.0]},
        )
        for name in [f"a_model_with_a_long_name_{i}_{'z' * 40}" for i in range(6)]
    ]
    entries = [Entry(result=own, label=own.model.name) for own in results]
    return render_report("Title", tables_of(compare(entries)))


def test_gallery_filters(gallery: str, tmp_path: Path) -> None:
    everything = visit(tmp_path, gallery)
    assert "<form>" in everything
    assert len(shown(everything)) == 3
    assert "3 of 3" in everything
    by_words = visit(tmp_path, gallery, fragment="#text=HORSE%20png")
    assert [text.split()[0] for text in shown(by_words)] == ["folder/dog.png", "folder/horse.png"]
    assert "2 of 3" in by_words
    by_kind = visit(tmp_path, gallery, fragment="#text=%3Cb%3E&kind=right")
    assert len(shown(by_kind)) == 1
    assert not shown(visit(tmp_path, gallery, fragment="#text=horse&kind=right"))


def test_typing_filters(gallery: str, report: str, tmp_path: Path) -> None:
    typed = visit(tmp_path, gallery, probe=TYPE.replace("WORDS", "Cow"))
    assert "1 of 3" in typed
    assert len(shown(typed)) == 1
    for words in ("flags", "flags k-NN", "flags knn_top1"):  # as it is shown, and recorded
        rows = shown(visit(tmp_path, report, probe=TYPE.replace("WORDS", words)))
        assert rows == ["sensitivity flags knn_top1 k-nn: top-1 accuracy"] * 2  # a row, a figure


def test_sections_with_nothing_left_are_hidden(report: str, tmp_path: Path) -> None:
    assert "<section hidden" in visit(tmp_path, report, fragment="#text=nothing")
    assert "<section hidden" not in visit(tmp_path, report, fragment="#text=flags")


def test_links_unfold_the_protocol(report: str, tmp_path: Path) -> None:
    opened = re.findall(r"<details id=[^>]* open", visit(tmp_path, report, fragment="#part-0-3"))
    assert opened == ['<details id="part-0-3" open']


HOVER = """
for (const part of document.querySelectorAll('details')) part.open = true;
const dot = document.querySelector('circle[data-index="3"]');
dot.dispatchEvent(new PointerEvent('pointerover', {bubbles: true, clientX: 9, clientY: 9}));
document.querySelector('.legend button').click();
"""


@pytest.fixture(scope="module")
def scored() -> str:
    """A page with images, matrices and maps of two models with long names."""
    labels = torch.arange(40) % 4
    entries = []
    for seed, name in enumerate(("one" * 20, "another_" * 9)):
        predicted = labels.roll(seed + 1)
        own = Scores(
            task="vendor", rows=torch.arange(40), labels=labels, predicted=predicted,
            confidence=torch.ones(40), values={"knn_top1": (predicted == labels).to(torch.uint8)},
            classes=tuple(f"a class of a long name {c}" * 3 for c in "abcd"),
        )  # fmt: skip
        scores = ScoreFile(
            scores=(own,),
            names={index: f"folder/{index}.png" for index in range(40)},
            thumbnails=dict.fromkeys(range(40), encoded(make_image(), "WEBP")),
            sample=torch.arange(40),
            sample_features=torch.randn(40, 4, generator=torch.Generator().manual_seed(seed)),
        )
        result = make_result(name, task="knn", metrics={"vendor": {"knn_top1": 0.0}})
        entries.append(Entry(result=result, label=name, scores=scores))
    return render_report("Title", tables_of(compare(entries)))


def test_a_dot_of_the_map_shows_its_image(scored: str, tmp_path: Path) -> None:
    document = visit(tmp_path, scored, probe=HOVER)
    [box] = re.findall(r'<div id="hover".*?</div>', document, flags=re.DOTALL)
    assert " hidden" not in box.partition(">")[0]
    assert "folder/3.png" in box and "data:image/webp" in box
    hot = re.findall(r"<circle [^>]*hot[^>]*>", document)
    assert len(hot) == 2  # in the maps of both models
    assert all('data-index="3"' in dot for dot in hot)
    # A pressed class stands alone: three of four are dimmed.
    assert len(re.findall(r"<circle [^>]*dim[^>]*>", document)) == 60


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(
    gallery: str, report: str, scored: str, tmp_path: Path, width: int
) -> None:
    unfold = "for (const part of document.querySelectorAll('details')) part.open = true;"
    for page in (gallery, report, scored):
        document = visit(tmp_path, page, width=width, probe=unfold + MEASURE)
        assert 'data-wide="0"' in document
