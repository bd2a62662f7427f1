"""A page with some images of a run, their augmented views, and each view's omega."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate

from cassle_zoo.augmentation.augment import AugmentConfig, params_from_uniforms
from cassle_zoo.augmentation.descriptors import DescriptorLayout
from cassle_zoo.common.bands import open_channels, visible
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.files import write_text
from cassle_zoo.common.images import Array, UnreadableImageError
from cassle_zoo.common.templates import data_uri, render
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import Crops
from cassle_zoo.train.data.views import check_described, make_views

IMAGES = 12
_LONGEST = 320  # longest side of a shown image in pixels
_BOXES = ("#e69f00", "#56b4e9", "#009e73", "#d55e00")  # Okabe-Ito colours, one per view


def write_preview(config: TrainConfig, page: Path) -> int:
    """Write a page with up to `IMAGES` images, evenly spread over the dataset, and their views.

    The views are those of the first epoch of the run (except those of a stream, whose images have
    no fixed numbers).

    Args:
        config: The run; `data.root` must be given.
        page: The HTML file.

    Returns:
        The number of images on it.

    Raises:
        ConfigError: If `page` is a folder or its folder does not exist, there is no data, or omega
            would describe an augmentation that is turned off.
        DataError: If no image can be read.
    """
    if not config.data.root:
        raise ConfigError("a preview shows your images; pass --data PATH.")
    if page.is_dir() or not page.parent.is_dir():
        raise ConfigError(f"--preview {str(page)!r} must name a file in an existing folder.")
    channels = config.augment.channels
    dataset = open_dataset(config.data, channels)
    check_described(config.conditioning.descriptors, config.views.of_each(config.augment))
    layout = DescriptorLayout(
        () if config.conditioning.mode == "none" else config.conditioning.descriptors
    )
    shown = [
        _show(config, layout, name, image, number)
        for name, image, number in _images(dataset, channels)
    ]
    if not shown:
        raise DataError(f"no image in {config.data.root!r} can be read.")
    write_text(
        page, render("cassle_zoo.train", "preview.html", config=config, shown=shown, layout=layout)
    )
    return len(shown)


def _images(dataset: Any, channels: int) -> Iterator[tuple[str, Image.Image | Array, int]]:
    if isinstance(dataset, IterableDataset):
        for number, (image, _) in enumerate(itertools.islice(dataset, IMAGES)):
            yield f"image {number + 1}", open_channels(image, channels), number
        return
    count = min(IMAGES, len(dataset))
    filename = getattr(dataset, "filename", None)
    for index in range(count):
        number = index * len(dataset) // count
        try:
            image = open_channels(dataset[number][0], channels)
        except (UnreadableImageError, OSError):  # training reports them
            continue
        yield (str(filename(number)) if filename else f"image {number + 1}"), image, number


def _show(
    config: TrainConfig,
    layout: DescriptorLayout,
    name: str,
    image: Image.Image | Array,
    number: int,
) -> dict[str, Any]:
    """Return what the page shows of an image: it, its views, and omega of all descriptors."""
    sample = Crops(config.augment, config.run.seed, config.views)(image, 0, number)
    batch = default_collate([sample])
    each = config.views.of_each(config.augment)
    every = each[0].layout
    views = make_views(batch, config.augment, every, torch.device("cpu"), views=config.views)
    omegas = [omega[0].tolist() for omega in views.descriptors]
    boxes = [
        params_from_uniforms(own, batch["uniforms"][:, view], batch["source"]).box[0]
        for view, own in enumerate(each)
    ]
    colors = tuple(_BOXES[view % len(_BOXES)] for view in range(len(omegas)))
    return {
        "name": name,
        "image": _uri(_with_boxes(visible(image), boxes, colors)),
        "views": [_uri(_as_image(view[0], config.augment)) for view in views.images],
        "colors": colors,
        "numbers": list(_numbers(omegas, every, layout)),
    }


def _numbers(
    omegas: list[list[float]], every: DescriptorLayout, layout: DescriptorLayout
) -> Iterator[dict[str, Any]]:
    meanings = every.meanings()
    for name, columns in every.slices().items():
        for column, meaning in enumerate(meanings[name], start=columns.start):
            yield {
                "descriptor": name,
                "meaning": meaning,
                "seen": name in layout.names,
                "of_views": [round(omega[column], 3) + 0.0 for omega in omegas],  # no -0.000
            }


def _as_image(view: Tensor, augment: AugmentConfig) -> Image.Image:
    """Undo the normalisation of a (C, H, W) view."""
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (augment.mean, augment.std))
    pixels = (view.float() * std + mean).clamp(0, 1).mul(255).round().byte()
    return visible(pixels.permute(1, 2, 0).numpy())


def _with_boxes(image: Image.Image, boxes: list[Tensor], colors: tuple[str, ...]) -> Image.Image:
    scale = min(1.0, _LONGEST / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(small)
    line = max(1, max(small.size) // 100)
    for box, color in zip(boxes, colors, strict=True):
        top, left, tall, wide = (scale * side for side in box.tolist())
        # Of a very long image, a crop may be less than a pixel high.
        right, bottom = min(left + wide, width) - 1, min(top + tall, height) - 1
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=line)
    return small


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    # Training ignores colour profiles, so the page does too.
    image.save(buffer, "PNG", icc_profile=None)
    return data_uri(buffer.getvalue(), "png")
