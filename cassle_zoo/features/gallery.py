"""Contact sheet and HTML page of queries and their nearest neighbours."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor, nn

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import atomic_write, write_text
from cassle_zoo.common.images import to_rgb
from cassle_zoo.common.templates import encode_thumbnail, render
from cassle_zoo.common.terminal import busy
from cassle_zoo.features.explorer.spaces import (
    ReadImages,
    agreement,
    displayed,
    feature_space,
    model_caption,
    open_extractors,
    read_images,
)
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.features.files import save_features
from cassle_zoo.features.inputs import Skipped, expand_inputs
from cassle_zoo.features.nearest import nearest_neighbours
from cassle_zoo.features.whitening import model_whitening

SAMPLES = Path(__file__).parents[1] / "samples"

_INK, _FAINT, _LINE, _PANEL, _ACCENT = "#1d2733", "#5f6b7a", "#d5dbe3", "#e9eff7", "#2f6fb2"
_FRAMES = {"right": "#009e73", "wrong": "#d55e00"}  # Okabe-Ito colours
_FRAME = 16  # the longer side of an image is this many times as long as its frame is wide
_THUMBNAIL = 128
_THUMBNAIL_BYTES = 6000
_CELL = 112  # width and height of an image on the sheet, in pixels
_NEIGHBOURS = {1: 6, 2: 6, 3: 4}  # by number of models
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
        note: What else there is to say, in a few words.
    """

    image: Image.Image
    label: str = ""
    name: str = ""
    cosine: float = 0.0
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class GalleryList:
    """The neighbours found in one space.

    Attributes:
        found: The neighbours, most similar first.
        title: The caption.
    """

    found: Sequence[GalleryItem]
    title: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class GalleryRow:
    """A query and its neighbours.

    Attributes:
        query: The query.
        lists: Its neighbours in one or several spaces.
    """

    query: GalleryItem
    lists: Sequence[GalleryList]

    def mark(self, item: GalleryItem) -> str:
        """Return `right` if an item has the query's label, else `wrong`."""
        return "right" if item.label == self.query.label else "wrong"


@dataclass(frozen=True, kw_only=True)
class DemoOutputs:
    """Files written by :func:`run_demo`.

    Attributes:
        sheet: PNG with some of the images and their neighbours.
        page: HTML page with up to 100 of them.
        features: The features of the first model, to be read by :func:`cassle_zoo.load_features`.
        images: Number of images that were read.
        skipped: Files that could not be read as images, and why.
    """

    sheet: Path
    page: Path
    features: Path
    images: int
    skipped: list[Skipped]


def run_demo(
    models: nn.Module | str | Sequence[nn.Module | str],
    folder: Path,
    inputs: Sequence[str | Path] = (),
) -> DemoOutputs:
    """Find the nearest neighbours of each image; write a sheet, a page and the features.

    Features are whitened, with the transform in the model's folder, or else one fitted to the
    images themselves; the page shows the neighbours by raw features, too. With several models, the
    queries whose neighbours differ most come first.

    Args:
        models: One model, or up to three to compare; those given by name are loaded with their
            pretrained weights.
        folder: The folder; it is created.
        inputs: Images and folders; by default the sample images of the package.

    Returns:
        The files written.

    Raises:
        DataError: If fewer than two images can be read.
        ConfigError: If there are not one to three different models, or the whitening in a folder
            was fitted to features of another model.
    """
    given = [models] if isinstance(models, nn.Module | str) else list(models)
    images, skipped = expand_inputs(list(inputs) or SAMPLES)
    extractors = open_extractors(given, most=max(_NEIGHBOURS), projected=False)
    whitenings = [model_whitening(model) if isinstance(model, str) else None for model in given]
    for model, whitening, extractor in zip(given, whitenings, extractors, strict=True):
        if whitening is not None and whitening.origin:
            whitening.check_origin(extractor.origin, f"in the folder of {model}")
    read = read_images(extractors, images, skipped=skipped)
    spaces = [
        feature_space(model_caption(model), outputs["pooled"], whitening)
        for model, outputs, whitening in zip(given, read.outputs, whitenings, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    outputs = DemoOutputs(
        sheet=folder / "neighbours.png",
        page=folder / "neighbours.html",
        features=folder / "features.safetensors",
        images=len(read.sources),
        skipped=read.skipped,
    )
    features = read.outputs[0]["pooled"]
    origin = extractors[0].origin
    save_features(FeatureSet(features, read.sources, read.skipped, origin=origin), outputs.features)
    k, compared = min(_NEIGHBOURS[len(spaces)], len(read.sources) - 1), len(spaces)
    found = [(space.title, *space.neighbours(k)) for space in spaces]
    raw = [
        (f"{space.name}, raw", *nearest_neighbours(space.raw, space.raw, k, exclude_self=True))
        for space in spaces
        if space.raw is not space.vectors
    ]

    @cache
    def opened(place: int) -> Image.Image:
        image = displayed(images[read.indices[place]], extractors)
        return ImageOps.contain(image, (_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)

    title = f"Nearest neighbours by {' and '.join(space.name for space in spaces)}"
    summary = (
        "Each row: the query, then the images with the most similar features and their cosine "
        "similarity."
    )
    if compared > 1:
        summary += (
            " Rows where the models agree least come first; ◆ marks what only one of them finds."
        )
    for space in spaces:
        summary += f" Features of {space.name}: {space.about}."
    with busy("drawing the neighbours"):
        rows = _rows(_queries(found, _SHEET_ROWS), read, found, opened, compared)
        with atomic_write(outputs.sheet) as partial:
            contact_sheet(title, rows).save(partial, "PNG")
        rows = _rows(_queries(found, _PAGE_ROWS), read, [*found, *raw], opened, compared)
        write_text(outputs.page, gallery_page(title, rows, summary=summary))
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
        The page, to be saved as UTF-8. All texts are escaped, and no script but its own can run.

    Raises:
        ConfigError: There are no rows.
    """
    _check(rows)
    places: dict[str, int] = {}  # of each thumbnail in the page, which stores it once
    of_image: dict[int, int] = {}  # an image may occur in many rows

    def thumbnail(item: GalleryItem) -> int:
        if id(item.image) not in of_image:
            content = encode_thumbnail(item.image, _THUMBNAIL, _THUMBNAIL_BYTES)
            of_image[id(item.image)] = places.setdefault(content, len(places))
        return of_image[id(item.image)]

    return render(
        "cassle_zoo.features",
        "gallery.html",
        title=title,
        rows=rows,
        summary=summary,
        marked=marked,
        thumbnail=thumbnail,
        thumbnails=places,
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
    lists = [part for row in rows for part in row.lists]
    items = [item for part in lists for item in part.found] + [row.query for row in rows]
    captions = round(1.5 * text) + (round(1.4 * small) if any(i.label for i in items) else 0)
    step_x, step_y = cell + gap, cell + captions + gap
    top = margin + (round(2.4 * text) if title else 0) + round(1.8 * small)
    # The query column, and each list, is set off by a second gap.
    first = margin + step_x + gap
    wide = max(len(part.found) for part in lists) * step_x + gap
    count = max(len(row.lists) for row in rows)
    heading = ImageFont.load_default(round(1.35 * text))
    width = first + count * wide - gap + margin
    width = max(width, 2 * margin + round(heading.getlength(title)))
    sheet = Image.new("RGB", (width, top + len(rows) * step_y + margin - gap // 2), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin * 0.8), _one_line(title), fill=_INK, font=heading)
    right, bottom = margin + cell + gap // 2, sheet.height - margin // 2
    panel = (margin - gap // 2, top - gap // 2, right, bottom)
    draw.rounded_rectangle(panel, radius=gap // 2, fill=_PANEL)
    head_y, font = top - gap // 2 - round(1.5 * small), ImageFont.load_default(small)
    draw.text((margin, head_y), "query", fill=_FAINT, font=font)
    for column, part in enumerate(max(rows, key=lambda row: len(row.lists)).lists):
        words = ", ".join(filter(None, (part.title, "most similar first")))
        shown = _fit(words, font, wide - gap)
        draw.text((first + column * wide, head_y), shown, fill=_FAINT, font=font)
    for number, row in enumerate(rows):
        y = top + number * step_y
        _draw_cell(sheet, row.query, "", (margin, y), text, small)
        for column, part in enumerate(row.lists):
            for place, item in enumerate(part.found):
                framed = _framed(item, row.mark(item)) if marked else item
                corner = (first + column * wide + place * step_x, y)
                _draw_cell(sheet, framed, f"{item.cosine:.3f}", corner, text, small)
    return sheet


def _check(rows: Sequence[GalleryRow]) -> None:
    if not rows:
        raise ConfigError("There are no queries to show.")


_Found = tuple[str, Tensor, Tensor]
"""Caption, cosines (N, k) and indices (N, k) of neighbours."""


def _queries(found: Sequence[_Found], count: int) -> list[int]:
    """Choose queries: evenly spaced, or those on whose neighbours several spaces agree least."""
    total = len(found[0][2])
    if len(found) < 2:
        return list(range(0, total, math.ceil(total / count)))
    pairs = itertools.combinations([indices for _, _, indices in found], 2)
    agreed = torch.stack([agreement(first, second) for first, second in pairs]).mean(0)
    return torch.argsort(agreed, stable=True)[:count].tolist()


def _rows(
    queries: Sequence[int],
    read: ReadImages,
    shown: Sequence[_Found],
    opened: Callable[[int], Image.Image],
    compared: int,
) -> list[GalleryRow]:
    """Return the rows of queries; the first `compared` spaces are those of different models."""
    paths = [Path(source) for source in read.sources]
    named = Counter(path.stem for path in paths)

    def label(path: Path) -> str:
        """Name an image, with its folder where another has the same name."""
        return path.stem if named[path.stem] == 1 else f"{path.parent.name}/{path.stem}"

    def item(index: int, cosine: float = 0.0, note: str = "") -> GalleryItem:
        name = label(paths[index])
        return GalleryItem(image=opened(index), label=name, cosine=cosine, note=note)

    def row(query: int) -> GalleryRow:
        finders = Counter(i for _, _, indices in shown[:compared] for i in indices[query].tolist())
        lists = []
        for place, (title, cosines, indices) in enumerate(shown):
            pairs = list(zip(indices[query].tolist(), cosines[query].tolist(), strict=True))
            among = compared > 1 and place < compared
            alone = {i for i, _ in pairs if among and finders[i] == 1}
            found = [item(i, c, "only this model finds it" if i in alone else "") for i, c in pairs]
            lists.append(GalleryList(title=title, found=found))
        return GalleryRow(query=item(query), lists=lists)

    return [row(query) for query in queries]


def _framed(item: GalleryItem, mark: str) -> GalleryItem:
    width = max(1, max(item.image.size) // _FRAME)
    image = ImageOps.expand(to_rgb(item.image), width, fill=_FRAMES[mark])
    return replace(item, image=image, label=f"{mark}: {item.label}")


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
    # Bytes in file names that are not valid text cannot be drawn.
    return " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")
