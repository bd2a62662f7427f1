import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.report.retrieval_page import Example, Shown, retrieval_page, retrieval_sheet

EVIL = '"><script>alert(1)</script>&amp;'
RED, BLUE = Image.new("RGB", (300, 100), "red"), Image.new("RGBA", (20, 20), "blue")


def example(query: str, *found: str, name: str = "f.png") -> Example:
    shown = [Shown(image=BLUE, name=name, label=label, cosine=0.5) for label in found]
    return Example(query=Shown(image=RED, name=name, label=query), found=shown)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_right_and_wrong_are_marked_in_words():
    page = Tags(retrieval_page("T", "S", [example("cat", "cat", "dog"), example("dog", "cat")]))
    assert [own["class"] for own in page.of("li")] == ["right", "wrong", "wrong"]
    assert [own["data-kind"] for own in page.of("section")] == ["right", "wrong"]
    assert page.of("section")[1]["data-text"] == "f.png dog f.png cat"
    assert (page.text.count("✓ right"), page.text.count("✗ wrong")) == (1, 2)
    assert [own["alt"] for own in page.of("img")] == ["cat", "cat", "dog", "dog", "cat"]


def test_page_needs_nothing_else():
    text = retrieval_page("T", "S", [example("cat", "dog")])
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import", text)
    assert all((own["src"] or "").startswith("data:image/webp") for own in Tags(text).of("img"))
    assert len(text) < 10_000


def test_names_are_escaped():
    page = Tags(retrieval_page(EVIL, EVIL, [example(EVIL, EVIL, name=EVIL + "\udce9")]))
    assert len(page.of("script")) == 1
    assert page.of("section")[0]["data-kind"] == "right"
    assert page.text.count(EVIL) == 7  # title, heading, summary; class and file name of both


def test_sheet_frames_differ():
    right = retrieval_sheet("T", [example("cat", "cat")])
    wrong = retrieval_sheet("T", [example("cat", "dog")])
    assert right.size == wrong.size
    assert {(0, 158, 115)} == colours(right) - colours(wrong) & {(0, 158, 115), (213, 94, 0)}
    assert (213, 94, 0) in colours(wrong)


def colours(sheet: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in sheet.getcolors(1 << 20) or ()}  # type: ignore[misc]


@pytest.mark.parametrize(
    "make", [lambda e: retrieval_page("", "", e), lambda e: retrieval_sheet("", e)]
)
def test_nothing_to_show(make):
    with pytest.raises(ConfigError, match="no queries"):
        make([])
