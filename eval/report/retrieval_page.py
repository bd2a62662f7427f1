"""Queries with what was found for them, to look at: a contact sheet and an HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.images import to_rgb
from cassle_zoo.eval.report.html import escape, filter_form, render, thumbnail_uri
from cassle_zoo.features.gallery import contact_sheet

_MARKS = {True: ("right", "#009e73"), False: ("wrong", "#d55e00")}  # Okabe-Ito colours
_FRAME = 16  # a frame is this part of the image's longer side

_STYLE = """
section { display: grid; grid-template-columns: clamp(5rem, 24vw, 8.5rem) 1fr; gap: 0.8rem;
  padding: 0.8rem 0; border-top: 1px solid var(--line); align-items: start; }
h2 { font-size: 0.85rem; margin: 0 0 0.3rem; }
ol { display: grid; gap: 0.6rem; list-style: none; margin: 0; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(clamp(4.4rem, 18vw, 7rem), 1fr)); }
li, .query { min-width: 0; font-size: 0.78rem; line-height: 1.3; }
.query { background: var(--panel); border-radius: 0.5rem; padding: 0.5rem; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #fff;
  border: 1px solid var(--line); border-radius: 0.25rem; padding: 3px; }
.right img { border: 3px solid var(--right); padding: 1px; }
.wrong img { border: 3px dashed var(--wrong); padding: 1px; }
.right b { color: var(--right); } .wrong b { color: var(--wrong); }
@media print { section { break-inside: avoid; } }
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """An image on the page.

    Attributes:
        image: The image.
        name: Of its file, and what else it may be found by.
        label: Name of its class.
        cosine: Similarity to the query; None for the query itself.
    """

    image: Image.Image
    name: str
    label: str
    cosine: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """A query and what is nearest to it, the nearest first.

    Attributes:
        query: What was looked up.
        found: The nearest of the gallery; right if their label is that of the query.
    """

    query: Shown
    found: Sequence[Shown]

    def is_right(self, place: int) -> bool:
        """Return whether what stands at a place, from 0, is relevant."""
        return self.found[place].label == self.query.label


def retrieval_sheet(title: str, examples: Sequence[Example]) -> Image.Image:
    """Draw queries with what was found, each framed and captioned right or wrong.

    Args:
        title: The heading.
        examples: At least one.

    Raises:
        ConfigError: If there are no examples.
    """
    return contact_sheet(
        [example.query.image for example in examples],
        [
            [_framed(item.image, example.is_right(i)) for i, item in enumerate(example.found)]
            for example in examples
        ],
        [[item.cosine or 0.0 for item in example.found] for example in examples],
        query_labels=[example.query.label for example in examples],
        neighbour_labels=[
            [f"{_MARKS[e.is_right(i)][0]}: {item.label}" for i, item in enumerate(e.found)]
            for e in examples
        ],
        title=title,
    )


def retrieval_page(title: str, summary: str, examples: Sequence[Example]) -> str:
    """Write queries with what was found as one HTML page that needs no other file.

    Args:
        title: The heading.
        summary: A sentence below it, such as the scores.
        examples: At least one.

    Returns:
        The page's text, to be saved as UTF-8.

    Raises:
        ConfigError: If there are no examples.
    """
    if not examples:
        raise ConfigError("There are no queries to show.")
    kinds = {"right": "queries whose nearest is right", "wrong": "queries whose nearest is wrong"}
    body = (
        f"<h1>{escape(title)}</h1>\n<p>{escape(summary)}</p>\n"
        f"{filter_form('Filter by class or name', kinds)}\n<main>\n"
        + "\n".join(_section(example) for example in examples)
        + "\n</main>"
    )
    return render(title, body, style=_STYLE)


def _section(example: Example) -> str:
    shown = [example.query, *example.found]
    text = " ".join(f"{item.name} {item.label}" for item in shown).lower()
    kind = _MARKS[example.is_right(0)][0]
    found = "".join(
        f'<li class="{mark}">{_image(item)}<b>{sign} {mark}</b> {item.cosine:.3f}'
        f"{_caption(item)}</li>"
        for i, item in enumerate(example.found)
        for mark, sign in [("right", "✓") if example.is_right(i) else ("wrong", "✗")]
    )
    query = example.query
    return (
        f'<section data-text="{escape(text)}" data-kind="{kind}"><div class="query">'
        f"<h2>{escape(query.label)}</h2>{_image(query)}{_caption(query)}</div>"
        f"<ol>{found}</ol></section>"
    )


def _image(item: Shown) -> str:
    return f'<img src="{thumbnail_uri(item.image)}" alt="{escape(item.label)}">'


def _caption(item: Shown) -> str:
    label = "" if item.cosine is None else f"{escape(item.label)}<br>"
    return f'<div>{label}<span class="faint">{escape(item.name)}</span></div>'


def _framed(image: Image.Image, right: bool) -> Image.Image:
    width = max(1, max(image.size) // _FRAME)
    return ImageOps.expand(to_rgb(image), width, fill=_MARKS[right][1])
