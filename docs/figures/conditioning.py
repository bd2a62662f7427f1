"""How much the projector of a bundled model undoes, by the omega that it is given."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image

import cassle_zoo
from cassle_zoo.augmentation.crop import cut_crops
from cassle_zoo.common.images import to_rgb
from cassle_zoo.eval.augmented.views import image_uniforms, input_recipe, make_view
from cassle_zoo.features.gallery import SAMPLES
from docs.figures.style import BLUE, FAINT, GREEN, ORANGE, open_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

MODEL = "resnet18_cassle_simclr.emoji64"
KINDS = {"color": "colour jitter", "grayscale": "grey", "crop": "crop"}
"""Augmentations of :func:`cassle_zoo.eval.augmented.views.make_view`, at full strength."""
STEPS = tuple(number / 4 for number in range(-4, 9))
"""How far the omega that is given goes from that of the image (0) to that of the view (1)."""


@torch.no_grad()
def measure() -> dict[str, Any]:
    """Return mean cosines of the sample images and one view of each.

    Of their features, and of their projections: the image's under its own omega, the view's under
    `image + step * (view - image)`. The model was not trained on these images.
    """
    model = cassle_zoo.create_model(MODEL, pretrained=True).eval()
    projector = cassle_zoo.create_projector(MODEL, pretrained=True).eval()
    images = [to_rgb(Image.open(path)) for path in sorted(SAMPLES.glob("*.png"))]
    recipe = input_recipe(cassle_zoo.eval_transform(model), images[0].size)
    source = torch.tensor([[image.height, image.width] for image in images])
    uniforms = image_uniforms(torch.arange(len(images)), seed=0)

    def embed(kind: str) -> tuple["Tensor", "Tensor"]:
        view = make_view(kind, recipe)
        boxes = view.params(uniforms, source).box.tolist()
        crops = [cut_crops(im, [box], recipe.size) for im, box in zip(images, boxes, strict=True)]
        ready, omega = view.render(torch.cat(crops), uniforms, source)
        return model(ready), projector.layout.select(omega, recipe.layout)

    features, clear = embed("original")
    target = projector(features, clear)
    found: dict[str, Any] = {"model": MODEL, "images": len(images), "steps": list(STEPS)}
    for kind in KINDS:
        own, omega = embed(kind)
        given = [projector(own, clear + step * (omega - clear)) for step in STEPS]
        found[kind] = {
            "features": _cosine(features, own),
            "projections": [_cosine(target, projected) for projected in given],
        }
    return found


def _cosine(first: "Tensor", second: "Tensor") -> float:
    return round(float(F.cosine_similarity(first, second).mean()), 4)


def draw(numbers: dict[str, Any]) -> "Figure":
    """Draw the cosines over the omega that the projector is given."""
    figure = open_figure(3.1)
    axis = figure.add_subplot()
    looks = zip(KINDS.items(), (BLUE, ORANGE, GREEN), "os^", strict=True)
    for (kind, label), colour, marker in looks:
        axis.plot(
            numbers["steps"], numbers[kind]["projections"], color=colour, marker=marker,
            markersize=4, linewidth=1.4, label=label,
        )  # fmt: skip
    axis.axvline(1, color=FAINT, linewidth=0.8, linestyle="--")
    axis.set_xticks(
        [-1, 0, 1, 2],
        ["the opposite", "none: “not\naugmented”", "the right ω", "twice the\nchange"],
        fontsize=8.5,
    )
    axis.set_ylabel("cosine of the projections\nof image and view", fontsize=8.5)
    axis.tick_params(axis="y", labelsize=8)
    axis.set_title("What the projector makes of a view, by the ω it is given", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8.5, frameon=False, title="view", title_fontsize=8.5, loc="lower right")
    return figure
