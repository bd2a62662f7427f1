"""Sheets and pages that show images with their nearest neighbours."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.images import to_rgb

_INK, _FAINT, _LINE, _PANEL, _ACCENT = "#1d2733", "#5f6b7a", "#d5dbe3", "#e9eff7", "#2f6fb2"


def contact_sheet(
    queries: Sequence[Image.Image],
    neighbours: Sequence[Sequence[Image.Image]],
    similarities: Sequence[Sequence[float]] | Tensor,
    *,
    query_labels: Sequence[str] | None = None,
    neighbour_labels: Sequence[Sequence[str]] | None = None,
    title: str = "",
    cell: int = 112,
) -> Image.Image:
    """Draw images with their neighbours: a row per query, the query in the tinted column.

    Args:
        queries: Q images.
        neighbours: For each query its neighbours, most similar first.
        similarities: For each neighbour its similarity, written below it.
        query_labels: A caption for each query.
        neighbour_labels: A caption for each neighbour.
        title: A heading.
        cell: Width and height of an image on the sheet, in pixels.

    Returns:
        The sheet, mode RGB.

    Raises:
        ConfigError: There are no queries, or the lengths do not fit together.
    """
    rows = _rows(queries, neighbours, similarities, query_labels, neighbour_labels)
    text, small = max(10, cell // 8), max(9, cell // 9)
    gap, margin = cell // 7, cell // 4
    has_labels = any(item.label for row in rows for item in row)
    captions = round(1.5 * text) + (round(1.4 * small) if has_labels else 0)
    step_x, step_y = cell + gap, cell + captions + gap
    top = margin + (round(2.4 * text) if title else 0) + round(1.8 * small)
    # The query column is set off by a second gap.
    first = margin + 2 * gap
    width = first + max(map(len, rows)) * step_x + margin - gap
    heading = ImageFont.load_default(round(1.35 * text))
    width = max(width, 2 * margin + round(heading.getlength(title)))
    sheet = Image.new("RGB", (width, top + len(rows) * step_y + margin - gap // 2), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin * 0.8), _one_line(title), fill=_INK, font=heading)
    panel = (
        margin - gap // 2,
        top - gap // 2,
        margin + cell + gap // 2,
        sheet.height - margin // 2,
    )
    draw.rounded_rectangle(panel, radius=gap // 2, fill=_PANEL)
    head_y, font = top - gap // 2 - round(1.5 * small), ImageFont.load_default(small)
    draw.text((margin, head_y), "query", fill=_FAINT, font=font)
    draw.text((first + step_x - gap, head_y), "most similar first", fill=_FAINT, font=font)
    for row_index, row in enumerate(rows):
        for column, item in enumerate(row):
            x = margin if column == 0 else first - gap + column * step_x
            _draw_cell(sheet, item, (x, top + row_index * step_y), cell, (text, small))
    return sheet


def html_gallery(
    queries: Sequence[Image.Image],
    neighbours: Sequence[Sequence[Image.Image]],
    similarities: Sequence[Sequence[float]] | Tensor,
    *,
    query_labels: Sequence[str] | None = None,
    neighbour_labels: Sequence[Sequence[str]] | None = None,
    title: str = "Nearest neighbours",
    thumbnail: int = 160,
) -> str:
    """Write images with their neighbours as one HTML page that needs no other file.

    Labels and title are escaped, and the page forbids scripts and everything from outside.

    Args:
        queries: Q images.
        neighbours: For each query its neighbours, most similar first.
        similarities: For each neighbour its similarity, written below it.
        query_labels: A caption for each query.
        neighbour_labels: A caption for each neighbour.
        title: The heading.
        thumbnail: Largest width and height of the embedded images, in pixels.

    Returns:
        The page's text, to be saved as UTF-8.

    Raises:
        ConfigError: There are no queries, or the lengths do not fit together.
    """
    rows = _rows(queries, neighbours, similarities, query_labels, neighbour_labels)
    heading = html.escape(_one_line(title))
    sections = "\n".join(
        f'<section>{_figure(query, thumbnail, "query")}<div class="neighbours">'
        f"{''.join(_figure(item, thumbnail, 'neighbour') for item in found)}</div></section>"
        for query, *found in rows
    )
    return _PAGE.format(title=heading, style=_STYLE, sections=sections)


@dataclass(frozen=True)
class _Item:
    image: Image.Image
    label: str
    similarity: float | None


def _rows(
    queries: Sequence[Image.Image],
    neighbours: Sequence[Sequence[Image.Image]],
    similarities: Sequence[Sequence[float]] | Tensor,
    query_labels: Sequence[str] | None,
    neighbour_labels: Sequence[Sequence[str]] | None,
) -> list[list[_Item]]:
    """Put together what belongs to one row: the query, then its neighbours."""
    if not queries:
        raise ConfigError("There are no queries to show.")
    scores = similarities.tolist() if isinstance(similarities, Tensor) else similarities
    captions = query_labels if query_labels is not None else [""] * len(queries)
    labels = neighbour_labels
    if labels is None:
        labels = [[""] * len(found) for found in neighbours]
    try:
        return [
            [_Item(query, caption, None)]
            + [_Item(*item) for item in zip(found, names, values, strict=True)]
            for query, caption, found, names, values in zip(
                queries, captions, neighbours, labels, scores, strict=True
            )
        ]
    except ValueError as error:
        raise ConfigError(
            "Queries, neighbours, similarities and labels do not fit together: each query needs "
            "one list of neighbours, and each neighbour one similarity and, if any, one label."
        ) from error


def _draw_cell(
    sheet: Image.Image, item: _Item, corner: tuple[int, int], cell: int, sizes: tuple[int, int]
) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = corner
    image = ImageOps.contain(to_rgb(item.image), (cell - 8, cell - 8), Image.Resampling.LANCZOS)
    draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill="white", outline=_LINE)
    sheet.paste(image, (x + (cell - image.width) // 2, y + (cell - image.height) // 2))
    y += cell + cell // 24
    text, small = (ImageFont.load_default(size) for size in sizes)
    if item.similarity is not None:
        draw.text((x, y), f"{item.similarity:.3f}", fill=_ACCENT, font=text)
        y += round(1.3 * sizes[0])
    if item.label:
        draw.text((x, y), _fit(item.label, small, cell), fill=_FAINT, font=small)


def _fit(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten in the middle, since file names differ at both ends."""
    label = _one_line(label)
    if font.getlength(label) <= width:
        return label
    # Measuring is slow for texts of any length, and no more than this can fit.
    kept = min(len(label) - 1, width)
    while kept > 1 and font.getlength(_shortened(label, kept)) > width:
        kept -= 1
    return _shortened(label, kept)


def _shortened(label: str, kept: int) -> str:
    tail = kept // 2
    return f"{label[: kept - tail]}…{label[len(label) - tail :]}"


def _one_line(text: str) -> str:
    # Names of files that are not valid text would make the page impossible to encode.
    return " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")


def _figure(item: _Item, thumbnail: int, kind: str) -> str:
    image = to_rgb(item.image).copy()
    image.thumbnail((thumbnail, thumbnail), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    label = html.escape(_one_line(item.label))
    score = "" if item.similarity is None else f"<b>{item.similarity:.3f}</b> "
    return (
        f'<figure class="{kind}"><img src="data:image/png;base64,{data}" alt="{label or kind}" '
        f'title="{label}"><figcaption>{score}<span>{label}</span></figcaption></figure>'
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --faint: #5f6b7a; --line: #d5dbe3;
  --panel: #e9eff7; --page: #fff; --accent: #2f6fb2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --faint: #9aa6b5; --line: #39424e;
  --panel: #222c39; --page: #14191f; --accent: #7ab4ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 75rem; background: var(--page); color: var(--ink);
  font: 0.8rem/1.35 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0.3rem 0 0.2rem; }
p { color: var(--faint); margin: 0 0 1rem; }
section { display: grid; grid-template-columns: clamp(5rem, 24vw, 8.5rem) 1fr; gap: 0.8rem;
  padding: 0.8rem 0; border-top: 1px solid var(--line); align-items: start; }
.neighbours { display: grid; gap: 0.6rem;
  grid-template-columns: repeat(auto-fill, minmax(clamp(4.2rem, 17vw, 7.5rem), 1fr)); }
figure { margin: 0; min-width: 0; }
.query { background: var(--panel); border-radius: 0.5rem; padding: 0.4rem; position: sticky;
  top: 0.5rem; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #fff;
  border: 1px solid var(--line); border-radius: 0.25rem; padding: 3px; }
figcaption { margin-top: 0.25rem; overflow-wrap: anywhere; }
b { display: block; color: var(--accent); font-variant-numeric: tabular-nums; }
span { color: var(--faint); }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>Each row: the query, then the images with the most similar features and their cosine
similarity.</p>
{sections}
</body>
</html>
"""
