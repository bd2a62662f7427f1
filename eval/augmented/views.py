"""Augmented views of chosen strength, independent of the order and size of batches.

Views are made by `cassle_zoo.augmentation.augment`, so that equal parameters give the same pixels
as in training. Their randomness depends only on the seed and the image's index, so that every
augmentation and strength has the same crop position and the same signs for an image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

from cassle_zoo.augmentation.augment import (
    JITTER_FACTORS,
    AugmentConfig,
    AugmentParams,
    apply_params,
    describe,
    draw_uniforms,
    params_from_uniforms,
    view_generator,
)
from cassle_zoo.augmentation.crop import cut_crops
from cassle_zoo.augmentation.registry import find_augmentation
from cassle_zoo.common.errors import ConfigError, DataError, unknown_name
from cassle_zoo.common.images import open_image
from cassle_zoo.eval.base import EvalContext, EvalData, Images
from cassle_zoo.eval.batches import read_batches
from cassle_zoo.features.inference import choose_device, embed, inference

GRADED: tuple[str, ...] = ("crop", "color", *JITTER_FACTORS, "blur")
SWITCHES: tuple[str, ...] = ("grayscale", "flip")
ORIGINAL, RECIPE = "original", "recipe"
AUGMENTATIONS: tuple[str, ...] = (*GRADED, *SWITCHES)
"""Augmentations that can be applied alone; `SWITCHES` have no strength but 1."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A kind of view.

    Attributes:
        name: One of `AUGMENTATIONS`, or a further augmentation of the recipe; `original`, the
            central square of the image; or `recipe`, drawn from the whole distribution of training.
        strength: Fraction of the training range, in [0, 1]. Crops cover 1 - strength · (1 -
            smallest fraction) of the area, at a random place and ratio (if that fits into the
            image at no ratio, they are the central crop, as in training); colour factors are
            exactly 1 ± strength · range, with random signs and order; the blur has exactly
            strength · largest sigma. Further augmentations have only the strength 1: their
            parameters are drawn from their whole range.
        value: The resulting parameter: area, deviation of the factors (in `color` that of
            brightness), or sigma in pixels; 1 for switches, 0 for the original.
        config: The distribution that the view is drawn from.
        recipe: The distribution of training, whose ranges omega is scaled by.
    """

    name: str
    strength: float
    value: float
    config: AugmentConfig
    recipe: AugmentConfig

    def params(self, uniforms: Tensor, source: Tensor) -> AugmentParams:
        """Return the parameters of B views.

        Args:
            uniforms: (B, U) from `image_uniforms`.
            source: (B, 2) heights and widths of the images.
        """
        params = params_from_uniforms(self.config, uniforms, source)
        if self.name == RECIPE:
            return params
        config = self.config
        reach = torch.tensor([config.brightness, config.contrast, config.saturation, config.hue])
        centre = torch.tensor([1.0, 1.0, 1.0, 0.0])
        sign = torch.where(params.factors < centre, -1.0, 1.0)
        return replace(params, factors=centre + sign * reach)

    def render(self, crops: Tensor, uniforms: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's input (B, 3, S, S) and omega (B, D) in the recipe's layout.

        Args:
            crops: (B, 3, S, S) uint8, cut by `params`.
            uniforms: (B, U) from `image_uniforms`.
            source: (B, 2) heights and widths of the images.
        """
        params = self.params(uniforms, source)
        images, color_diff = apply_params(crops, params, self.config)
        ranges = replace(self.recipe, extra=self.config.extra)
        return images, describe(params, color_diff, self.recipe.layout, ranges).cpu()


def make_view(name: str, recipe: AugmentConfig, strength: float = 1) -> View:
    """Return a view with one augmentation at a given strength, or `original` or `recipe`.

    Raises:
        UnknownNameError: If there is no such augmentation.
        ConfigError: If the strength is not in (0, 1].
    """
    further = {one.name: one for one in recipe.extra}
    if name not in (*AUGMENTATIONS, *further, ORIGINAL, RECIPE):
        raise unknown_name("augmentation", name, (*AUGMENTATIONS, *further))
    if not 0 < strength <= 1:
        raise ConfigError(f"strength must be in (0, 1], got {strength}.")
    if name == RECIPE:
        return View(name=name, strength=1, value=1, config=recipe, recipe=recipe)
    still = replace(
        recipe, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_p=0, jitter_p=0, brightness=0,
        contrast=0, saturation=0, hue=0, grayscale_p=0, blur_p=0, extra=(),
    )  # fmt: skip
    if name == ORIGINAL:
        return View(name=name, strength=0, value=0, config=still, recipe=recipe)
    value = 1.0
    if name == "crop":
        value = 1 - strength * (1 - recipe.crop_scale[0])
        still = replace(still, crop_scale=(value, value), crop_ratio=recipe.crop_ratio)
    elif name == "blur":
        value = strength * recipe.blur_sigma[1]
        still = replace(still, blur_p=1, blur_sigma=(value, value))
    elif name == "color" or name in JITTER_FACTORS:
        parts = JITTER_FACTORS if name == "color" else (name,)
        reach = {part: strength * getattr(recipe, part) for part in parts}
        value = reach[parts[0]]
        still = replace(still, jitter_p=1, **reach)
    elif name == "grayscale":
        still = replace(still, grayscale_p=1)
    elif name == "flip":
        still = replace(still, flip_p=1)
    elif name in further:
        still = replace(still, extra=(replace(further[name], p=1),))
    return View(name=name, strength=strength, value=value, config=still, recipe=recipe)


def input_recipe(
    transform: Callable[[Image.Image], Tensor], size: tuple[int, int]
) -> AugmentConfig:
    """Return the paper's recipe at a transform's size, mean and standard deviation.

    Mean and standard deviation are measured with a black and a white image.

    Args:
        transform: From an image to the network's input.
        size: Width and height of these images, for transforms that do not resize.

    Raises:
        ConfigError: If the transform does not make square (3, S, S) tensors, or is not monotonic.
    """
    black, white = (transform(Image.new("RGB", size, name)) for name in ("black", "white"))
    channels, height, width = black.shape
    if channels != 3 or height != width:
        raise ConfigError(
            f"the network takes {channels}x{height}x{width}; views are square and of 3 channels."
        )
    span = (white - black).double().mean(dim=(1, 2))
    if not (span > 0).all():
        raise ConfigError("the transform does not make white brighter than black.")
    # Six decimals undo the float32 rounding of the transform.
    mean = [round(float(v), 6) for v in -black.double().mean(dim=(1, 2)) / span]
    std = [round(float(v), 6) for v in 1 / span]
    return AugmentConfig(
        size=int(height), mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2])
    )


def context_recipe(context: EvalContext, further: Sequence[str] = ()) -> AugmentConfig:
    """Return the paper's recipe for a context's network, with further augmentations.

    Args:
        context: The network and the images.
        further: Names of further augmentations. Each has the settings that the network was trained
            with, or else its own defaults, and is applied to half of the views.

    Raises:
        UnknownNameError: If there is no such augmentation.
    """
    recipe = input_recipe(context.transform, context.data.images[0][0].size)
    trained = context.source.augment
    extra = [
        replace(find_augmentation(name).from_dict(trained.get(name, {})), p=0.5)
        for name in dict.fromkeys(further)
    ]
    return replace(recipe, extra=tuple(extra))


def as_trained(omega: Tensor, recipe: AugmentConfig, context: EvalContext) -> Tensor:
    """Return omega as in the projector's training: colours scaled by the ranges used there.

    Args:
        omega: (N, W) in the layout of `recipe`, scaled by the ranges there.
        recipe: The distribution of the views.
        context: The network.
    """
    scaled = omega.clone()
    trained = context.source.augment
    for column, name in enumerate(JITTER_FACTORS, start=recipe.layout.slices()["color"].start):
        here = getattr(recipe, name)
        own = trained.get(name, here)
        scaled[:, column] *= here / own if own > 0 else 0.0
    return scaled


def in_words(recipe: AugmentConfig) -> str:
    """Return the further augmentations of a recipe, for a protocol; empty if there are none."""
    return "".join(f"; also {one}" for one in recipe.extra)


def draw_images(candidates: Tensor, count: int, seed: int) -> Tensor:
    """Draw at most `count` of the candidates, in the order drawn."""
    generator = torch.Generator().manual_seed(seed)
    return candidates[torch.randperm(len(candidates), generator=generator)[:count]]


def draw_test_images(data: EvalData, count: int, seed: int) -> Tensor:
    """Draw from the images in a dataset's test splits, or from all if there are no such splits.

    Args:
        data: The dataset.
        count: Number of images; all if there are fewer.
        seed: Seed of the draw.

    Returns:
        Their indices in order.

    Raises:
        DataError: If there are fewer than two images.
    """
    candidates = data.test_images()
    if not len(candidates):
        candidates = torch.arange(len(data.images))
    drawn = draw_images(candidates, count, seed)
    if len(drawn) < 2:
        raise DataError(f"{data.name} has {len(drawn)} images; 2 are needed.")
    return drawn.sort().values


def image_uniforms(indices: Tensor, seed: int) -> Tensor:
    """Return the uniforms (N, U) of views of images: a row depends only on its index and seed."""
    rows = [draw_uniforms(1, view_generator(seed, 0, index, 0)) for index in indices.tolist()]
    return torch.cat(rows)


def derangement(count: int, seed: int, steps: int = 1) -> Tensor:
    """Return another position for each of `count`: the one `steps` later in a random cycle.

    Args:
        count: Number of positions, more than `steps`.
        seed: Seed of the cycle.
        steps: Different steps lead to different positions.
    """
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(-steps)
    return partner


def read_crops(
    context: EvalContext, indices: Tensor, uniforms: Tensor, views: Sequence[View]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read images and cut the crops of each view.

    Returns:
        Batches of crops, (B, V, 3, S, S) uint8, with (B, 2) heights and widths of the images.

    Raises:
        DataError: If an image cannot be read.
    """
    crops = _Crops(context.data.images, indices.tolist(), uniforms, views)
    batches = BatchSampler(range(len(indices)), context.compute.batch_size, drop_last=False)
    return read_batches(crops, batches, workers=context.compute.workers)


def embed_views(
    context: EvalContext, indices: Tensor, views: Sequence[View]
) -> tuple[Tensor, Tensor]:
    """Return features (V, N, D) of views of images, and their omegas (V, N, W).

    Args:
        context: The network and the images.
        indices: N images.
        views: V kinds of views, all of one recipe, whose layout has W numbers.

    Raises:
        DataError: If an image cannot be read.
        ConfigError: If the network does not return (B, D).
    """
    model, compute = context.model, context.compute
    device = choose_device(model, compute.device)
    uniforms = image_uniforms(indices, compute.seed)
    batches = read_crops(context, indices, uniforms, views)
    features: list[Tensor] = []
    omegas: list[Tensor] = []
    start = 0
    with inference(model, device), compute.bar(total=len(indices), unit="img", desc="views") as bar:
        for crops, source in batches:
            chosen = uniforms[start : start + len(crops)]
            start += len(crops)
            rendered = [
                view.render(crops[:, place].to(device), chosen, source)
                for place, view in enumerate(views)
            ]
            features.append(torch.stack([embed(model, images) for images, _ in rendered]))
            omegas.append(torch.stack([omega for _, omega in rendered]))
            bar.update(len(crops))
    return torch.cat(features, dim=1), torch.cat(omegas, dim=1)


@dataclass(eq=False)
class _Crops(Dataset[tuple[Tensor, Tensor]]):
    images: Images
    indices: list[int]
    uniforms: Tensor
    views: Sequence[View]

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = open_image(self.images[self.indices[row]][0])
        source = torch.tensor([[image.height, image.width]])
        uniforms = self.uniforms[row : row + 1]
        boxes = torch.cat([view.params(uniforms, source).box for view in self.views]).tolist()
        return cut_crops(image, boxes, self.views[0].config.size), source[0]
