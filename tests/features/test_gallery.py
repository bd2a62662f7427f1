"""Queries and neighbours on a sheet and a page: all are there, escaped, and marked if asked."""

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.features.gallery import (
    GalleryItem,
    GalleryList,
    GalleryRow,
    contact_sheet,
    gallery_page,
    run_demo,
)

RED, BLUE = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (30, 90), "blue")
EVIL = "\"><script>alert('x')</script>&amp;.png"


def row(
    query: Image.Image, *found: tuple[Image.Image, float], labels: str = "  ", name: str = ""
) -> GalleryRow:
    """A row whose labels are the letters of `labels`, the query's first; a space is no label."""
    return named(query, *found, labels=[letter.strip() for letter in labels], name=name)


def named(
    query: Image.Image, *found: tuple[Image.Image, float], labels: list[str], name: str = ""
) -> GalleryRow:
    own, *others = labels
    neighbours = [
        GalleryItem(image=image, cosine=cosine, label=label, name=name)
        for (image, cosine), label in zip(found, others * len(found), strict=False)
    ]
    query_item = GalleryItem(image=query, label=own, name=name)
    return GalleryRow(query=query_item, lists=[GalleryList(found=neighbours)])


def test_sheet_shows_every_image() -> None:
    rows = [row(RED, (BLUE, 0.9), (RED, 0.5), (RED, -0.1)), row(BLUE, (RED, 0.3))]
    sheet = contact_sheet("", rows)
    assert sheet.mode == "RGB"
    pixels = np.asarray(sheet)
    red = (pixels == (255, 0, 0)).all(axis=-1).sum()
    blue = (pixels == (0, 0, 255)).all(axis=-1).sum()
    side = 112 - 8
    assert red == 4 * side * side
    assert abs(blue - 2 * side * (side * 30 / 90)) < 3 * side


def test_sheet_grows_with_rows_and_neighbours() -> None:
    one = row(RED, (BLUE, 0.5))
    small = contact_sheet("", [one])
    wide = contact_sheet("", [row(RED, (BLUE, 0.5), (BLUE, 0.5))])
    tall = contact_sheet("", [one] * 2)
    labelled = contact_sheet("", [row(RED, (BLUE, 0.5), labels="ab")])
    titled = contact_sheet("A long title " * 9, [one])
    assert wide.width > small.width
    assert wide.height == small.height
    assert tall.height > small.height
    assert tall.width == small.width
    assert labelled.height > small.height
    assert titled.width > small.width


def test_captions_differ() -> None:
    first, second, third = (
        contact_sheet("", [row(RED, (BLUE, score), labels=f" {label}")]).tobytes()
        for score, label in [(0.5, "a"), (0.6, "a"), (0.5, "b")]
    )
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("label", ["x" * 5000, "", "two\nlines", "日本 🙂", "caf\udce9.png"])
def test_any_label_stays_in_its_cell(label: str) -> None:
    plain = contact_sheet("", [row(RED, (BLUE, 0.5), labels="ab")])
    rows = [named(RED, (BLUE, 0.5), labels=["a", label])]
    odd = contact_sheet("", rows)
    assert odd.size == plain.size
    margin = (slice(None), slice(plain.width - 112 // 4, None))
    assert (np.asarray(odd)[margin] == 255).all()
    gallery_page(label, rows, summary=label).encode("utf-8")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.html = text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[str]:
        """Thumbnails that the page's script shows."""
        found = re.search(r'<script type="application/json" id="images">(.*?)</script>', self.html)
        assert found
        stored: list[str] = json.loads(found[1])
        return stored

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_holds_all_it_needs() -> None:
    big = Image.new("RGB", (900, 300), "green")
    rows = [row(RED, (BLUE, 0.91), (RED, 0.5)), row(big, (RED, 0.3))]
    page = gallery_page("T", rows, summary="S")
    parsed = Page(page)
    assert len(parsed.of("img")) == 5
    stored = parsed.images()
    assert len(stored) == 3  # each once
    sizes = []
    for image in parsed.of("img"):
        data = stored[int(image["data-image"] or "")]
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as decoded:
            sizes.append(decoded.size)
    assert sizes == [(64, 64), (30, 90), (64, 64), (128, 43), (64, 64)]
    assert [image["alt"] for image in parsed.of("img")][:2] == ["query", "neighbour"]
    assert "0.910" in parsed.text
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import", page)
    assert len(page) < 10_000
    assert not parsed.of("select")
    assert not any("data-kind" in section for section in parsed.of("section"))


def test_images_of_one_name_are_captioned_with_their_folders(tmp_path: Path) -> None:
    for number in range(6):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        name = "ours.png" if number == 0 else f"IMG_{number // 2}.png"
        Image.new("RGB", (64, 64), (40 * number, 90, 20)).save(folder / name)
    (tmp_path / "photos" / "a" / "0.png").write_text("no image")
    done = run_demo(["resnet18_simclr"], tmp_path / "out", [tmp_path / "photos"])
    page = Page(done.page.read_text("utf-8"))
    captions = ["ours", "IMG_0", "a/IMG_1", "b/IMG_1", "a/IMG_2", "b/IMG_2"]  # as numbered
    shown, stored = page.of("img"), page.images()
    for image in shown:
        content = base64.b64decode(stored[int(image["data-image"] or "")])
        with Image.open(io.BytesIO(content)) as decoded:
            red = decoded.convert("RGB").getpixel((9, 9))[0]  # type: ignore[index]
        assert captions[round(red / 40)] == image["alt"]
    # Each image, its neighbours by whitened features, and those by raw ones.
    rows = [[image["alt"] for image in shown[start : start + 11]] for start in range(0, 66, 11)]
    assert len(shown) == 66
    assert sorted(row[0] or "" for row in rows) == sorted(captions)
    assert all({*row[1:6]} == {*row[6:]} == {*captions} - {row[0]} for row in rows)


@pytest.mark.parametrize("marked", [False, True])
def test_names_are_escaped(marked: bool) -> None:
    rows = [named(RED, (BLUE, 0.5), labels=[EVIL, EVIL], name=EVIL + "\udce9")]
    parsed = Page(gallery_page(EVIL, rows, summary=EVIL, marked=marked))
    assert [own.get("type") for own in parsed.of("script")] == ["application/json", None]
    assert len(parsed.images()) == 2
    assert [image["alt"] for image in parsed.of("img")] == [EVIL, EVIL]
    assert parsed.text.count(EVIL) == 7  # title, heading, summary; label and name of both
    assert not any("alert" in name for _, attributes in parsed.tags for name in attributes)


def test_braces_in_names() -> None:
    page = gallery_page("{{ rows }}", [named(RED, (BLUE, 0.5), labels=["{style}", "{% x %}"])])
    text = Page(page).text
    assert text.count("{{ rows }}") == 2
    assert (text.count("{style}"), text.count("{% x %}")) == (1, 1)


def test_right_and_wrong_are_marked_in_words() -> None:
    found = ((BLUE, 0.5), (BLUE, 0.4))
    rows = [
        named(RED, *found, labels=["cat", "cat", "dog"], name="f.png"),
        named(RED, found[0], labels=["dog", "cat"], name="f.png"),
    ]
    page = Page(gallery_page("T", rows, marked=True))
    assert [own["class"] for own in page.of("li")] == ["right", "wrong", "wrong"]
    assert [own["data-kind"] for own in page.of("section")] == ["right", "wrong"]
    assert page.of("section")[1]["data-text"] == "f.png dog f.png cat"
    assert (page.text.count("✓ right"), page.text.count("✗ wrong")) == (1, 2)
    assert [own["alt"] for own in page.of("img")] == ["cat", "cat", "dog", "dog", "cat"]
    assert [own["value"] for own in page.of("option")] == ["", "right", "wrong"]


def test_frames_of_a_marked_sheet_differ() -> None:
    right = contact_sheet("T", [row(RED, (BLUE, 0.5), labels="cc")], marked=True)
    wrong = contact_sheet("T", [row(RED, (BLUE, 0.5), labels="cd")], marked=True)
    assert right.size == wrong.size
    frames = {(0, 158, 115), (213, 94, 0)}
    assert colours(right) & frames == {(0, 158, 115)}
    assert colours(wrong) & frames == {(213, 94, 0)}


def colours(sheet: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in sheet.getcolors(1 << 20) or ()}  # type: ignore[misc]


@pytest.mark.parametrize("make", [contact_sheet, gallery_page])
@pytest.mark.parametrize("marked", [False, True])
def test_nothing_to_show(make: Callable[..., object], marked: bool) -> None:
    with pytest.raises(ConfigError, match="no queries"):
        make("", [], marked=marked)


def test_given_images_are_not_changed() -> None:
    image = Image.new("RGBA", (900, 900), (0, 0, 0, 0))
    for marked in (False, True):
        gallery_page("", [row(image, (image, 1.0))], marked=marked)
        contact_sheet("", [row(image, (image, 1.0))], marked=marked)
    assert image.size == (900, 900)
    assert image.mode == "RGBA"
