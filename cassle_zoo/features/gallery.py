"""Contact sheet and HTML page of queries and their nearest neighbours."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor, nn

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.files import write_text
from cassle_zoo.common.images import open_image, to_rgb
from cassle_zoo.common.templates import data_uri, render
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.files import save_features
from cassle_zoo.features.inputs import Skipped
from cassle_zoo.features.nearest import nearest_neighbours
from cassle_zoo.features.whitening import model_whitening

SAMPLES = Path(__file__).parents[1] / "samples"

_INK, _FAINT, _LINE, _PANEL, _ACCENT = "#1d2733", "#5f6b7a", "#d5dbe3", "#e9eff7", "#2f6fb2"
_FRAMES = {"right": "#009e73", "wrong": "#d55e00"}  # Okabe-Ito colours
_FRAME = 16  # the longer side of an image is this many times as long as its frame is wide
_THUMBNAIL = 160
_CELL = 112  # width and height of an image on the sheet, in pixels
_NEIGHBOURS = 6
_SHEET_ROWS = 12
_PAGE_ROWS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class GalleryItem:
    """An image with its captions.

    Attributes:
        image: The image, of any mode; it is not changed.
        label: Name of its class, or another short caption.
        name: Name of its file, and other words that the page's search should find.
        cosine: Similarity to the query; meaningless for the query itself.
    """

    image: Image.Image
    label: str = ""
    name: str = ""
    cosine: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class GalleryRow:
    """A query and its neighbours.

    Attributes:
        query: The query.
        found: Its neighbours, most similar first.
    """

    query: GalleryItem
    found: Sequence[GalleryItem]

    def mark(self, item: GalleryItem) -> str:
        """Return `right` if an item has the query's label, else `wrong`."""
        return "right" if item.label == self.query.label else "wrong"


@dataclass(frozen=True, kw_only=True)
class DemoOutputs:
    """Files written by :func:`run_demo`.

    Attributes:
        sheet: PNG with some of the images and their neighbours.
        page: HTML page with up to 100 of them.
        features: The features, to be read by :func:`cassle_zoo.load_features`.
        images: Number of images that were read.
        skipped: Files that could not be read as images, and why.
    """

    sheet: Path
    page: Path
    features: Path
    images: int
    skipped: list[Skipped]


def run_demo(
    model: nn.Module | str, folder: Path, inputs: Sequence[str | Path] = ()
) -> DemoOutputs:
    """Extract features of images, find the nearest neighbours of each, and write all to a folder.

    If the model's folder holds a whitening, the features are whitened.

    Args:
        model: A model, or the name of one, which is loaded with its pretrained weights.
        folder: The folder; it is created.
        inputs: Images and folders; by default the sample images of the package.

    Returns:
        The files written.

    Raises:
        DataError: If fewer than two images can be read.
    """
    whitening = model_whitening(model) if isinstance(model, str) else None
    found = extract_features(model, list(inputs) or SAMPLES, whiten=whitening)
    if len(found) < 2:
        raise DataError(f"Only {found.sources[0]} can be read; at least two images are needed.")
    k = min(_NEIGHBOURS, len(found) - 1)
    cosines, indices = nearest_neighbours(found.features, found.features, k, exclude_self=True)
    folder.mkdir(parents=True, exist_ok=True)
    outputs = DemoOutputs(
        sheet=folder / "neighbours.png",
        page=folder / "neighbours.html",
        features=folder / "features.safetensors",
        images=len(found),
        skipped=found.skipped,
    )
    save_features(found, outputs.features)
    title = f"Nearest neighbours by {model if isinstance(model, str) else type(model).__name__}"
    if whitening is not None:
        title += f", whitened to {whitening.components} dimensions"
    sheet = contact_sheet(title, _rows(found.sources, cosines, indices, _SHEET_ROWS))
    sheet.save(outputs.sheet)
    summary = (
        "Each row: the query, then the images with the most similar features and their cosine "
        "similarity."
    )
    page = gallery_page(title, _rows(found.sources, cosines, indices, _PAGE_ROWS), summary=summary)
    write_text(outputs.page, page)
    return outputs


def gallery_page(
    title: str, rows: Sequence[GalleryRow], *, summary: str = "", marked: bool = False
) -> str:
    """Write queries with their neighbours as one HTML page that needs no other file.

    Args:
        title: The heading.
        rows: At least one.
        summary: A sentence below the heading.
        marked: Mark neighbours with the query's label as right, and others as wrong.

    Returns:
        The page, to be saved as UTF-8. All texts are escaped, and no other script can run.

    Raises:
        ConfigError: There are no rows.
    """
    _check(rows)
    uris: dict[int, str] = {}

    def thumbnail(item: GalleryItem) -> str:
        key = id(item.image)  # an image may occur in many rows
        if key not in uris:
            uris[key] = _thumbnail_uri(item.image)
        return uris[key]

    return render(
        "cassle_zoo.features",
        "gallery.html",
        title=title,
        rows=rows,
        summary=summary,
        marked=marked,
        thumbnail=thumbnail,
    )


def contact_sheet(title: str, rows: Sequence[GalleryRow], *, marked: bool = False) -> Image.Image:
    """Draw queries with their neighbours: a row per query, the query in the tinted column.

    Args:
        title: The heading.
        rows: At least one.
        marked: Frame and caption neighbours with the query's label as right, others as wrong.

    Returns:
        The sheet, mode RGB.

    Raises:
        ConfigError: There are no rows.
    """
    _check(rows)
    cell, text, small, gap, margin = _CELL, _CELL // 8, _CELL // 9, _CELL // 7, _CELL // 4
    has_labels = any(item.label for row in rows for item in (row.query, *row.found))
    captions = round(1.5 * text) + (round(1.4 * small) if has_labels else 0)
    step_x, step_y = cell + gap, cell + captions + gap
    top = margin + (round(2.4 * text) if title else 0) + round(1.8 * small)
    # The query column is set off by a second gap.
    first = margin + step_x + gap
    heading = ImageFont.load_default(round(1.35 * text))
    width = first + max(len(row.found) for row in rows) * step_x + margin
    width = max(width, 2 * margin + round(heading.getlength(title)))
    sheet = Image.new("RGB", (width, top + len(rows) * step_y + margin - gap // 2), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin * 0.8), _one_line(title), fill=_INK, font=heading)
    right, bottom = margin + cell + gap // 2, sheet.height - margin // 2
    panel = (margin - gap // 2, top - gap // 2, right, bottom)
    draw.rounded_rectangle(panel, radius=gap // 2, fill=_PANEL)
    head_y, font = top - gap // 2 - round(1.5 * small), ImageFont.load_default(small)
    draw.text((margin, head_y), "query", fill=_FAINT, font=font)
    draw.text((first, head_y), "most similar first", fill=_FAINT, font=font)
    for number, row in enumerate(rows):
        y = top + number * step_y
        _draw_cell(sheet, row.query, "", (margin, y), text, small)
        for column, item in enumerate(row.found):
            shown = _framed(item, row.mark(item)) if marked else item
            corner = (first + column * step_x, y)
            _draw_cell(sheet, shown, f"{item.cosine:.3f}", corner, text, small)
    return sheet


def _check(rows: Sequence[GalleryRow]) -> None:
    if not rows:
        raise ConfigError("There are no queries to show.")


def _rows(sources: list[str], cosines: Tensor, indices: Tensor, count: int) -> list[GalleryRow]:
    """Choose evenly spaced queries, and open their images and their neighbours'."""
    queries = range(0, len(sources), math.ceil(len(sources) / count))
    opened: dict[int, Image.Image] = {}

    def item(index: int, cosine: float = 0.0) -> GalleryItem:
        if index not in opened:
            opened[index] = open_image(sources[index])
            opened[index].thumbnail((_THUMBNAIL, _THUMBNAIL))
        return GalleryItem(image=opened[index], label=Path(sources[index]).stem, cosine=cosine)

    return [
        GalleryRow(
            query=item(query),
            found=list(map(item, indices[query].tolist(), cosines[query].tolist())),
        )
        for query in queries
    ]


def _framed(item: GalleryItem, mark: str) -> GalleryItem:
    width = max(1, max(item.image.size) // _FRAME)
    image = ImageOps.expand(to_rgb(item.image), width, fill=_FRAMES[mark])
    return replace(item, image=image, label=f"{mark}: {item.label}")


def _thumbnail_uri(image: Image.Image) -> str:
    small = to_rgb(image).copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85, method=4)
    return data_uri(buffer.getvalue(), "webp")


def _draw_cell(
    sheet: Image.Image,
    item: GalleryItem,
    score: str,
    corner: tuple[int, int],
    text: int,
    small: int,
) -> None:
    draw, cell = ImageDraw.Draw(sheet), _CELL
    x, y = corner
    image = ImageOps.contain(to_rgb(item.image), (cell - 8, cell - 8), Image.Resampling.LANCZOS)
    draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill="white", outline=_LINE)
    sheet.paste(image, (x + (cell - image.width) // 2, y + (cell - image.height) // 2))
    y += cell + cell // 24
    if score:
        draw.text((x, y), score, fill=_ACCENT, font=ImageFont.load_default(text))
        y += round(1.3 * text)
    if item.label:
        font = ImageFont.load_default(small)
        draw.text((x, y), _fit(item.label, font, cell), fill=_FAINT, font=font)


def _fit(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten in the middle, since file names differ at both ends."""
    label = shortened = _one_line(label)
    # Measuring is slow for long texts, and no more letters than this can fit.
    letters = min(len(label), width + 1)
    while letters > 1 and font.getlength(shortened) > width:
        letters -= 1
        tail = letters // 2
        shortened = f"{label[: letters - tail]}…{label[len(label) - tail :]}"
    return shortened


def _one_line(text: str) -> str:
    # Bytes of file names that are no valid text cannot be drawn.
    return " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")
