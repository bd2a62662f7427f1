"""Spaces in which the same images are compared: features, raw or whitened, and projections."""

import contextlib
import itertools
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from cassle_zoo.common.bands import ToBands, open_channels, visible
from cassle_zoo.common.errors import ConfigError, DataError, ModelFolderError, UnknownNameError
from cassle_zoo.common.images import Reduction
from cassle_zoo.common.templates import encode_thumbnail
from cassle_zoo.features.extract import Extractor
from cassle_zoo.features.inputs import InputImage, Inputs, Skipped, nothing_read
from cassle_zoo.features.nearest import nearest_neighbours
from cassle_zoo.features.reader import read_image
from cassle_zoo.features.transform import channels_of, reduction_for, takes_bands
from cassle_zoo.features.whitening import Whitening

_BATCH = 64
# On emoji64's test images and random subsets of them, 84 to 1,182 images, these numbers of
# components found the same emoji of another vendor most often, or nearly so.
_COMPONENTS = 256
_PER_COMPONENT = 3  # images
_FEWEST = 8  # fewer components would leave out most of what there is to compare


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """Vectors of images, whose cosines say how similar the images are.

    Attributes:
        name: A caption.
        about: What was done to the raw vectors.
        vectors: (N, D) float32, to be compared.
        raw: (N, C) float32, as the model computed them.
    """

    name: str
    about: str
    vectors: Tensor
    raw: Tensor

    @property
    def title(self) -> str:
        """The name, and whether the vectors are whitened."""
        return self.name if self.raw is self.vectors else f"{self.name}, whitened"

    def neighbours(self, k: int) -> tuple[Tensor, Tensor]:
        """Return cosines and indices (N, k) of the images nearest to each, without itself."""
        return nearest_neighbours(self.vectors, self.vectors, k, exclude_self=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadImages:
    """Images that were read once, and what was computed from them.

    Attributes:
        indices: Their positions in the input.
        sources: Their names.
        outputs: For each extractor, its outputs by name, (N, ...).
        thumbnails: WebP in base64, if asked for.
        skipped: Those that could not be read.
    """

    indices: list[int]
    sources: list[str]
    outputs: list[dict[str, Tensor]]
    thumbnails: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def model_caption(model: nn.Module | str) -> str:
    """Return a model's name for captions; for an object, the name of its class."""
    return model if isinstance(model, str) else type(model).__name__


def open_extractors(
    models: Sequence[nn.Module | str],
    *,
    most: int = 2,
    projected: bool = True,
    device: str | torch.device | None = None,
) -> list[Extractor]:
    """Open models to be compared.

    Args:
        models: One or more.
        most: How many there may be.
        projected: Whether a single model given by name also computes projections, if it has a
            projector.
        device: As for :class:`Extractor`.

    Raises:
        ConfigError: There is none, or more than `most`, or one of them twice.
        UnknownNameError: There is no such model.
        WeightsUnavailableError: As for :class:`Extractor`.
    """
    if not 1 <= len(models) <= most:
        raise ConfigError(f"expected 1 to {most} models, got {len(models)}.")
    for first, second in itertools.combinations(models, 2):
        if first is second or first == second:
            name = model_caption(first)
            raise ConfigError(f"two models are {name}; give different ones, or it alone.")
    if projected and len(models) == 1 and isinstance(models[0], str):
        # If it has no projector; anything else that is wrong is raised again below.
        with contextlib.suppress(ConfigError, ModelFolderError, UnknownNameError):
            return [Extractor(models[0], outputs=("pooled", "projected"), device=device)]
    return [Extractor(model, device=device) for model in models]


def read_images(
    extractors: Sequence[Extractor],
    inputs: Inputs,
    *,
    skipped: Sequence[Skipped] = (),
    thumbnail: tuple[int, int] | None = None,
) -> ReadImages:
    """Read every image once, and compute the outputs of all extractors.

    Args:
        extractors: At least one.
        inputs: From :func:`cassle_zoo.features.inputs.expand_inputs`.
        skipped: What that left out.
        thumbnail: Longer side of thumbnails in pixels, and their largest size in bytes; `None` for
            no thumbnails.

    Raises:
        DataError: Fewer than two images could be read, or their storage failed.
    """
    left_out = list(skipped)
    indices: list[int] = []
    thumbnails: list[str] = []
    rows: list[list[dict[str, Tensor]]] = [[] for _ in extractors]
    transforms: list[Any] = [extractor.transform for extractor in extractors]
    reductions = list(filter(None, map(reduction_for, transforms)))

    def least(width: int, height: int) -> float:
        """Return how much smaller an image may be decoded for all models."""
        return min(reduction(width, height) for reduction in reductions)

    reduction = least if len(reductions) == len(extractors) else None

    def ready(item: InputImage) -> tuple[list[Tensor], str]:
        bands = all(map(takes_bands, transforms))
        needed = thumbnail or not bands
        if bands:  # decoded once, for the models and for the eye
            item = replace(item, value=ToBands(channels_of(transforms[0]))(item.raw()))
        image = displayed(item, extractors, reduction) if needed else None
        tensors = [
            transform(item.raw() if takes_bands(transform) else image) for transform in transforms
        ]
        return tensors, encode_thumbnail(image, *thumbnail) if image and thumbnail else ""

    threads = torch.get_num_threads() if inputs.in_threads else 1
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(inputs), unit="img", desc="images", file=sys.stderr, disable=None) as bar,
    ):
        for first in range(0, len(inputs), _BATCH):
            batch = range(first, min(first + _BATCH, len(inputs)))
            good = []
            read = pool.map(lambda index: read_image(inputs[index], ready), batch)
            for index, found in zip(batch, read, strict=True):
                if isinstance(found, Skipped):
                    left_out.append(found)
                else:
                    indices.append(index)
                    good.append(found)
            thumbnails += [small for _, small in good if thumbnail]
            for number, extractor in enumerate(extractors if good else ()):
                stacked = torch.stack([tensors[number] for tensors, _ in good])
                rows[number].append(extractor.compute(stacked))
            bar.update(len(batch))
    if not indices:
        raise DataError(nothing_read(left_out))
    if len(indices) < 2:
        only = inputs[indices[0]].source
        raise DataError(f"Only {only} can be read; at least two images are needed.")
    return ReadImages(
        indices=indices,
        sources=[inputs[index].source for index in indices],
        outputs=[{n: torch.cat([p[n] for p in parts]) for n in parts[0]} for parts in rows],
        thumbnails=thumbnails,
        skipped=left_out,
    )


def displayed(
    item: InputImage, extractors: Sequence[Extractor], reduction: Reduction | None = None
) -> Image.Image:
    """Return an image to look at; if all models take other bands than RGB, three of them, or one.

    Raises:
        UnreadableImageError: It cannot be read.
    """
    numbers = [channels_of(extractor.transform) for extractor in extractors]
    if any(channels in (1, 3) for channels in numbers):
        return item.image(reduction=reduction, channels=1 if set(numbers) == {1} else 3)
    return visible(open_channels(item.raw(), numbers[0]))


def feature_space(name: str, features: Tensor, whitening: Whitening | None = None) -> Space:
    """Compare images by whitened features.

    Args:
        name: A caption.
        features: (N, D).
        whitening: The transform, such as that of a model's folder; by default one that is fitted
            to the same images.

    Returns:
        The space. If features are too few to be whitened, or vary in too few directions, it has the
        raw ones, and `about` says why.
    """
    if whitening is not None:
        about = f"whitened to {whitening.components} principal components, as its folder says"
        return Space(name=name, about=about, vectors=whitening(features), raw=features)
    components = min(_COMPONENTS, len(features) // _PER_COMPONENT, features.shape[1])
    about = f"raw, as {len(features)} images of {features.shape[1]} features are too few to whiten"
    if components >= _FEWEST:
        try:
            vectors = Whitening.fit(features, components)(features)
        except DataError as error:
            about = f"raw, as they cannot be whitened: {str(error).rstrip('.')}"
        else:
            about = f"whitened to {components} principal components, fitted to the images shown"
            return Space(name=name, about=about, vectors=vectors, raw=features)
    return Space(name=name, about=about, vectors=features, raw=features)


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Say how much two rankings of neighbours agree, the nearest counting most.

    Args:
        first: (N, k) indices, nearest first.
        second: (N, k), of another space.

    Returns:
        (N,) in [0, 1]: the fraction that the first d have in common, averaged over d from 1 to k
        (Webber, Moffat and Zobel, "A similarity measure for indefinite rankings", 2010).
    """
    count = first.shape[1]
    ordered, places = second.sort(1)
    at = torch.searchsorted(ordered, first.contiguous()).clamp(max=count - 1)
    shared = ordered.gather(1, at) == first
    # What is at two places belongs to both rankings from the lower place on.
    lower = torch.maximum(places.gather(1, at), torch.arange(count).expand_as(first))
    common = torch.zeros_like(first).scatter_add_(1, lower, shared.to(first.dtype)).cumsum(1)
    return (common / torch.arange(1, count + 1)).mean(1)
