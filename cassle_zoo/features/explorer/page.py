"""An HTML page that shows images on a map, and the neighbours of each in one or two spaces."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import nn

from cassle_zoo.common.devices import check_device
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.templates import render
from cassle_zoo.common.terminal import busy
from cassle_zoo.features.explorer.layouts import check_layout, place
from cassle_zoo.features.explorer.spaces import (
    Space,
    agreement,
    feature_space,
    model_caption,
    open_extractors,
    read_images,
)
from cassle_zoo.features.inputs import Skipped, expand_inputs

MOST_IMAGES = 20_000
_BUDGET = 6_000_000  # bytes of all thumbnails together, as WebP; base64 makes 8 MB of them
_THUMBNAIL_BYTES = (1000, 6000)


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """What :func:`explore` returns.

    Attributes:
        page: HTML, to be saved as UTF-8.
        images: Number of images in it.
        spaces: Captions of the spaces in which they are compared.
        skipped: Images that could not be read, and why.
    """

    page: str
    images: int
    spaces: list[str]
    skipped: list[Skipped]


def explore(
    inputs: Any,
    models: nn.Module | str | Sequence[nn.Module | str] = "resnet18_cassle_simclr",
    *,
    layout: str = "auto",
    neighbours: int = 12,
    title: str = "Images and their neighbours",
    device: str | torch.device | None = None,
) -> Explorer:
    """Make a page that needs no other file: a map of images, and the neighbours of each.

    Neighbours are shown side by side: by the features of two models; or of one model, by its
    features, where what augmentation changes (crop, colour, blur) counts, and by its projections,
    where it counts for less. Features are whitened, with a transform fitted to the images.

    Args:
        inputs: Images in any form that :func:`cassle_zoo.extract_features` takes.
        models: One model or two, each a module or a name.
        layout: As for :func:`cassle_zoo.features.explorer.layouts.place`.
        neighbours: Number of neighbours of each image; all others if there are fewer.
        title: The heading.
        device: Where to compute, as for :class:`cassle_zoo.Extractor`.

    Returns:
        The page. 2,000 images take less than 10 MB.

    Raises:
        DataError: There are fewer than 2 images that can be read, or more than 20,000.
        ConfigError: A setting is not allowed.
        UnknownNameError: There is no such model or layout.
        MissingDependencyError: The layout needs an extra that is not installed.
    """
    if neighbours < 1:
        raise ConfigError(f"neighbours={neighbours}: expected at least 1.")
    check_layout(layout)
    check_device(device)
    given = [models] if isinstance(models, nn.Module | str) else list(models)
    images, skipped = expand_inputs(inputs)
    if len(images) > MOST_IMAGES:
        raise DataError(
            f"{len(images)} images are too many for a page; give at most {MOST_IMAGES}, such as a "
            "subfolder."
        )
    extractors = open_extractors(given, device=device)
    fewest, most = _THUMBNAIL_BYTES
    size = min(most, max(fewest, _BUDGET // max(1, len(images))))
    side = 128 if len(images) <= 500 else 96 if len(images) <= 4000 else 64
    read = read_images(extractors, images, skipped=skipped, thumbnail=(side, size))
    with busy("comparing the images"):
        spaces = [
            feature_space(f"Features of {model_caption(model)}", outputs["pooled"])
            for model, outputs in zip(given, read.outputs, strict=True)
        ]
        if "projected" in read.outputs[0]:
            projected = read.outputs[0]["projected"]
            counts = "what augmentation changes (crop, colour, blur) counts"
            spaces[0] = replace(spaces[0], about=f"{counts}; {spaces[0].about}")
            spaces.append(
                Space(
                    name=f"Projections by {model_caption(given[0])}",
                    about=f"{counts} for less",
                    vectors=projected,
                    raw=projected,
                )
            )
        page = explorer_page(
            title, read.sources, read.thumbnails, spaces, layout=layout, neighbours=neighbours
        )
    return Explorer(
        page=page,
        images=len(read.sources),
        spaces=[space.title for space in spaces],
        skipped=read.skipped,
    )


def explorer_page(
    title: str,
    sources: Sequence[str],
    thumbnails: Sequence[str],
    spaces: Sequence[Space],
    *,
    layout: str = "auto",
    neighbours: int = 12,
) -> str:
    """Write the page.

    Args:
        title: The heading.
        sources: Names of N images; the page's filter has their folders.
        thumbnails: One for each image, from :func:`cassle_zoo.common.templates.encode_thumbnail`.
        spaces: One or two, of N vectors each.
        layout: As for :func:`explore`.
        neighbours: As for :func:`explore`.

    Returns:
        The page. All texts are escaped, and no script but its own can run.
    """
    k = min(neighbours, len(sources) - 1)
    shown, ranked = [], []
    for space in spaces:
        points, how = place(space, layout)
        cosines, indices = space.neighbours(k)
        ranked.append(indices)
        shown.append(
            {
                "name": space.title,
                "about": space.about,
                "layout": how,
                "points": (points * 9999).round().int().flatten().tolist(),
                "neighbours": indices.flatten().tolist(),
                "cosines": (cosines * 1000).round().int().flatten().tolist(),
            }
        )
    folders, names = _split(sources)
    listed = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    # Parents, too, so that choosing one shows everything below it.
    choices = sorted({folder[: m.end()] for folder in listed for m in re.finditer("[^/]+", folder)})
    data = {
        "names": names,
        "folders": list(listed),
        "folder": [listed[folder] for folder in folders],
        "k": k,
        "spaces": shown,
        "agreement": (agreement(*ranked) * 1000).round().int().tolist() if ranked[1:] else [],
    }
    return render(
        "cassle_zoo.features",
        "explorer.html",
        title=title,
        count=len(sources),
        spaces=shown,
        folders={folder: folder for folder in choices} if len(listed) > 1 else {},
        data=data,
        thumbnails=thumbnails,
    )


def _split(sources: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return folders, without what all have in common, and names of files."""
    parts = [source.split("/") for source in sources]
    levels = zip(*(folders[:-1] for folders in parts), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return ["/".join(p[shared:-1]) for p in parts], [p[-1] for p in parts]
