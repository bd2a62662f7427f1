import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.features.gallery import contact_sheet, html_gallery


def features(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


RED, BLUE = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (30, 90), "blue")


def test_sheet_shows_every_image() -> None:
    sheet = contact_sheet([RED, BLUE], [[BLUE, RED, RED], [RED]], [[0.9, 0.5, -0.1], [0.3]])
    assert sheet.mode == "RGB"
    pixels = np.asarray(sheet)
    red = (pixels == (255, 0, 0)).all(axis=-1).sum()
    blue = (pixels == (0, 0, 255)).all(axis=-1).sum()
    side = 112 - 8
    assert red == 4 * side * side
    assert abs(blue - 2 * side * (side * 30 / 90)) < 3 * side


def test_sheet_grows_with_rows_and_neighbours() -> None:
    small = contact_sheet([RED], [[BLUE]], [[0.5]])
    wide = contact_sheet([RED], [[BLUE] * 2], [[0.5] * 2])
    tall = contact_sheet([RED] * 2, [[BLUE]] * 2, torch.full((2, 1), 0.5))
    named = contact_sheet([RED], [[BLUE]], [[0.5]], query_labels=["a"], neighbour_labels=[["b"]])
    titled = contact_sheet([RED], [[BLUE]], [[0.5]], title="A long title " * 9)
    assert wide.width > small.width
    assert wide.height == small.height
    assert tall.height > small.height
    assert tall.width == small.width
    assert named.height > small.height
    assert titled.width > small.width


def test_captions_differ() -> None:
    first, second, third = (
        contact_sheet([RED], [[BLUE]], [[score]], neighbour_labels=[[label]]).tobytes()
        for score, label in [(0.5, "a"), (0.6, "a"), (0.5, "b")]
    )
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("label", ["x" * 5000, "", "two\nlines", "日本 🙂", "caf\udce9.png"])
def test_any_label_stays_in_its_cell(label: str) -> None:
    plain = contact_sheet([RED], [[BLUE]], [[0.5]], query_labels=["a"], neighbour_labels=[["b"]])
    odd = contact_sheet([RED], [[BLUE]], [[0.5]], query_labels=["a"], neighbour_labels=[[label]])
    assert odd.size == plain.size
    margin = (slice(None), slice(plain.width - 112 // 4, None))
    assert (np.asarray(odd)[margin] == 255).all()
    page = html_gallery([RED], [[BLUE]], [[0.5]], query_labels=[label])
    page.encode("utf-8")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_holds_all_it_needs() -> None:
    big = Image.new("RGB", (900, 300), "green")
    page = html_gallery([RED, big], [[BLUE, RED], [RED]], [[0.91, 0.5], [0.3]])
    parsed = Page(page)
    assert len(parsed.images) == 5
    sizes = []
    for image in parsed.images:
        data = (image["src"] or "").removeprefix("data:image/png;base64,")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as decoded:
            sizes.append(decoded.size)
    assert sizes == [(64, 64), (30, 90), (64, 64), (160, 53), (64, 64)]
    assert "0.910" in parsed.text
    assert not re.search(r"https?:|//[a-z]|url\(", page)


def test_names_are_escaped() -> None:
    evil = "\"><script>alert('x')</script>&amp;.png"
    page = html_gallery(
        [RED], [[BLUE]], [[0.5]], query_labels=[evil], neighbour_labels=[[evil]], title=evil
    )
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert [image["alt"] for image in parsed.images] == [evil, evil]
    assert parsed.text.count(evil) == 4  # title, heading and two captions


def test_braces_in_names() -> None:
    page = html_gallery([RED], [[BLUE]], [[0.5]], query_labels=["{style}"], title="{sections}")
    assert Page(page).text.count("{sections}") == 2


@pytest.mark.parametrize("make", [contact_sheet, html_gallery])
@pytest.mark.parametrize(
    ("queries", "neighbours", "scores", "labels"),
    [
        ([], [], [], None),
        ([RED, RED], [[BLUE]], [[0.5]], None),
        ([RED], [[BLUE]], [[0.5, 0.4]], None),
        ([RED], [[BLUE]], [[0.5]], [["a", "b"]]),
    ],
)
def test_lengths_must_agree(
    make: object, queries: list, neighbours: list, scores: list, labels: list | None
) -> None:
    with pytest.raises(ConfigError, match=r"no queries|fit together"):
        make(queries, neighbours, scores, neighbour_labels=labels)


def test_given_images_are_not_changed() -> None:
    image = Image.new("RGBA", (900, 900), (0, 0, 0, 0))
    html_gallery([image], [[image]], [[1.0]])
    contact_sheet([image], [[image]], [[1.0]])
    assert image.size == (900, 900)
    assert image.mode == "RGBA"
