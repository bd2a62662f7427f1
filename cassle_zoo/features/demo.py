"""The demo: features of images, and each image's nearest neighbours, written to look at."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import open_image
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.files import save_features
from cassle_zoo.features.gallery import contact_sheet, html_gallery
from cassle_zoo.features.inputs import Skipped
from cassle_zoo.features.nearest import nearest_neighbours

SAMPLES = Path(__file__).parents[1] / "samples"

_NEIGHBOURS = 6
_SHEET_ROWS = 12
_PAGE_ROWS = 100
_THUMBNAIL = 160


@dataclass(frozen=True, kw_only=True)
class DemoOutputs:
    """What the demo wrote.

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
    """Extract features of images, find nearest neighbours and write both.

    Args:
        model: A model, or the name of one, which is loaded with its pretrained weights.
        folder: Where to write; it is created.
        inputs: Images and folders; by default the sample images of the package.

    Returns:
        The files written.

    Raises:
        DataError: If fewer than two images can be read.
    """
    found = extract_features(model, list(inputs) or SAMPLES)
    count = len(found.sources)
    if count < 2:
        raise DataError(f"Only {found.sources[0]} can be read; neighbours need two images.")
    similarities, indices = nearest_neighbours(
        found.features, found.features, min(_NEIGHBOURS, count - 1), exclude_self=True
    )
    folder.mkdir(parents=True, exist_ok=True)
    outputs = DemoOutputs(
        sheet=folder / "neighbours.png",
        page=folder / "neighbours.html",
        features=folder / "features.safetensors",
        images=count,
        skipped=found.skipped,
    )
    save_features(found, outputs.features)

    title = f"Nearest neighbours by {model if isinstance(model, str) else type(model).__name__}"
    few = _gallery(found.sources, indices, similarities, _SHEET_ROWS)
    contact_sheet(**few, title=title).save(outputs.sheet)
    many = _gallery(found.sources, indices, similarities, _PAGE_ROWS)
    page = html_gallery(**many, title=title, thumbnail=_THUMBNAIL)
    outputs.page.write_text(page, encoding="utf-8")
    return outputs


def _gallery(
    sources: list[str], indices: Tensor, similarities: Tensor, rows: int
) -> dict[str, Any]:
    """Choose evenly spaced queries, and open their images and their neighbours'."""
    queries = list(range(0, len(sources), math.ceil(len(sources) / rows)))
    neighbours = indices[queries].tolist()
    images = {i: _thumbnail(sources[i]) for i in {*queries, *itertools.chain(*neighbours)}}
    labels = [Path(source).stem for source in sources]
    return {
        "queries": [images[q] for q in queries],
        "neighbours": [[images[i] for i in row] for row in neighbours],
        "similarities": similarities[queries],
        "query_labels": [labels[q] for q in queries],
        "neighbour_labels": [[labels[i] for i in row] for row in neighbours],
    }


def _thumbnail(source: str) -> Image.Image:
    image = open_image(source)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return image
