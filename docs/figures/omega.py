"""Views of one image, each with one augmentation, and the numbers that describe them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from cassle_zoo.augmentation.augment import (
    AugmentConfig,
    AugmentParams,
    apply_params,
    describe,
    sample_params,
)
from cassle_zoo.augmentation.crop import cut_crops
from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS, DescriptorLayout
from cassle_zoo.features.gallery import SAMPLES
from docs.figures.style import FAINT, INK, TINT, WIDTH, open_canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

IMAGE = "police-car-fluent3d.png"
CONFIG = AugmentConfig(size=64, mean=(0.0,) * 3, std=(1.0,) * 3)
LAYOUT = DescriptorLayout(PAPER_DESCRIPTORS)
COLUMNS = {
    "blur": ("sigma, px",),
    "color": ("brightness", "contrast", "saturation", "hue"),
    "color_diff": ("red", "green", "blue"),
    "crop": ("centre y", "centre x", "height", "width"),
    "grayscale": ("yes or no",),
}
SEED = 42  # of the view with all augmentations
_LABELS, _TOP = 1.42, 0.98  # inches
_ROW = 0.2


def _open_image() -> Image.Image:
    with Image.open(SAMPLES / IMAGE) as image:
        return image.convert("RGB")


def view_params(image: Image.Image) -> dict[str, AugmentParams]:
    """Return the parameters of each view, by its title."""
    source = torch.tensor([[image.height, image.width]])
    off = torch.zeros(1, dtype=torch.bool)
    still = AugmentParams(
        box=torch.tensor([[0, 0, image.height, image.width]]), source=source, flip=off, jitter=off,
        factors=torch.tensor([[1.0, 1.0, 1.0, 0.0]]), order=torch.arange(4)[None],
        grayscale=off, blur=off, sigma=torch.zeros(1),
    )  # fmt: skip
    crop = replace(still, box=torch.tensor([[12, 4, 36, 40]]))

    def jittered(*factors: float) -> AugmentParams:
        return replace(still, jitter=~off, factors=torch.tensor([factors]))

    return {
        "the image\nitself": still,
        "cropped": crop,
        "…and\nflipped": replace(crop, flip=~off),
        "darker": jittered(0.6, 1.0, 1.0, 0.0),
        "hue\nshifted": jittered(1.0, 1.0, 1.0, 0.1),
        "grey": replace(still, grayscale=~off),
        "blurred": replace(still, blur=~off, sigma=torch.tensor([2.0])),
        "all, as in\ntraining": sample_params(
            CONFIG, source, generator=torch.Generator().manual_seed(SEED)
        ),
    }


def make_view(image: Image.Image, params: AugmentParams) -> tuple[Tensor, Tensor]:
    """Return a view (3, 64, 64) in [0, 1], and its omega (13,)."""
    crops = cut_crops(image, params.box.tolist(), CONFIG.size)
    images, color_diff = apply_params(crops, params, CONFIG)
    return images[0], describe(params, color_diff, LAYOUT, CONFIG)[0]


def measure() -> dict[str, Any]:
    """Return the 13 numbers of each view, by its title."""
    image = _open_image()
    return {
        title: [round(float(v), 3) for v in make_view(image, params)[1]]
        for title, params in view_params(image).items()
    }


def draw(numbers: dict[str, Any]) -> "Figure":
    """Draw the views side by side, their numbers below; those that changed are marked."""
    height = _TOP + _ROW * (LAYOUT.width + 0.2 * len(LAYOUT.names))
    figure, axis = open_canvas(height)
    step = (WIDTH - _LABELS) / len(numbers)
    image, unchanged = _open_image(), next(iter(numbers.values()))
    for column, (title, params) in enumerate(view_params(image).items()):
        left = _LABELS + column * step
        side, bottom = step - 0.1, height - _TOP + 0.1
        box = (left + 0.05, left + 0.05 + side, bottom, bottom + side)
        view, _ = make_view(image, params)
        axis.imshow(view.permute(1, 2, 0).clamp(0, 1).numpy(), extent=box)
        axis.add_patch(_box(left + 0.05, bottom, side, side, edgecolor="#98a1ad", linewidth=0.6))
        middle = left + step / 2
        axis.text(middle, height - 0.2, title, ha="center", va="center", fontsize=7.5, color=INK)
    y = height - _TOP
    for name, columns in LAYOUT.slices().items():
        y -= 0.2 * _ROW
        axis.plot([0.05, WIDTH - 0.05], [y + 0.015] * 2, color="#d5dbe3", linewidth=0.8)
        for position, label in enumerate(COLUMNS[name]):
            y -= _ROW
            if position == 0:
                axis.text(0.06, y + _ROW / 2, name, va="center", fontsize=7.5, weight="bold")
            axis.text(
                _LABELS - 0.06, y + _ROW / 2, label, ha="right", va="center", fontsize=7.5,
                color=FAINT,
            )  # fmt: skip
            row = columns.start + position
            for column, values in enumerate(numbers.values()):
                left, changed = _LABELS + column * step, values[row] != unchanged[row]
                if changed:
                    cell = (left + 0.02, y + 0.01, step - 0.04, _ROW - 0.02)
                    axis.add_patch(_box(*cell, facecolor=TINT, linewidth=0))
                axis.text(
                    left + step / 2, y + _ROW / 2, f"{values[row]:.2f}".replace("-", "−"),
                    ha="center", va="center", fontsize=7.5, color=INK if changed else "#98a1ad",
                )  # fmt: skip
    axis.set(xlim=(0, WIDTH), ylim=(0, height))
    axis.set_aspect("auto")
    return figure


def _box(left: float, bottom: float, width: float, height: float, **look: Any) -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle((left, bottom), width, height, **{"facecolor": "none", **look})
