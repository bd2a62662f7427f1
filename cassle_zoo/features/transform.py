"""The deterministic transform from an image to a model's input."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms import ResizeKeepRatio
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision import transforms

from cassle_zoo.common.bands import ToBands
from cassle_zoo.common.images import Reduction, ValueRange, check_value_range, to_rgb
from cassle_zoo.features.wrappers import unwrap
from cassle_zoo.zoo import create

Transform: TypeAlias = Callable[[Image.Image], Tensor]

# Beyond this ratio of the sides, resizing the whole image wastes memory without bound.
_MAX_ASPECT = 16
_OVERSAMPLED = 2  # times the size that is needed
# timm's layers that fold pixels into many channels, which the convolution after them takes.
_FOLDING = ("SpaceToDepth", "LearnableDct2d")


def eval_transform(
    model: nn.Module | str, *, value_range: ValueRange | None = None
) -> transforms.Compose:
    """Return the deterministic transform from an image to the model's input.

    As in timm's evaluation, the short side is resized (bicubic unless the model's configuration
    says otherwise) to the input size divided by ``crop_pct``, the centre is cropped, and the result
    is normalised with the model's mean and standard deviation. Models with one input channel get
    grey images and the mean of the statistics. Models with 2 or more than 3 input channels take
    images of that many bands: arrays (H, W, C), tensors (C, H, W), multi-band TIFF files. If an
    image is more than 16 times as long as wide, only its middle is resized.

    Args:
        model: A model, possibly in a wrapper (:func:`cassle_zoo.features.wrappers.unwrap`), or the
            name of one.
        value_range: The values of black and white in images of more than 8 bits; by default 0 and
            65535 for 16 bits (:func:`cassle_zoo.common.images.to_rgb`).

    Returns:
        A function from a PIL image of any mode (for models of 2 or more than 3 channels: any form
        of an image) to a float32 tensor (C, H, W); it can be pickled.

    Raises:
        UnknownNameError: There is no model of that name.
        ConfigError: ``value_range`` is not two numbers, the smaller one first.

    Warns:
        UserWarning: The model has no configuration, so timm's defaults are used: 224 pixels and
            ImageNet's statistics; or its statistics are for another number of channels, so their
            mean is used.

    Examples:
        >>> transform = cassle_zoo.eval_transform("resnet18_cassle_simclr")
        >>> with Image.open("photo.jpg") as image:
        ...     transform(image).shape
        torch.Size([3, 64, 64])
    """
    value_range = check_value_range(value_range)
    if isinstance(model, str):
        model = create.create_model(model)
    found = unwrap(model)
    if found.config is None:
        output = "" if found.model is not None else " Its output is taken as the features."
        warnings.warn(
            f"{found.what} has no pretrained_cfg of timm, or several, so images get timm's "
            "defaults: 224 pixels and ImageNet's mean and standard deviation. If it was trained "
            f"with others, pass transform=.{output}",
            stacklevel=2,
        )
    config = resolve_data_config({"chans": 3}, found.config)  # type: ignore[no-untyped-call]
    network = found.network if found.model is None else found.model
    size = _built_for_size(network) or config["input_size"][-2:]
    channels = input_channels(network)
    mean, std = (_per_channel(config[key], channels) for key in ("mean", "std"))
    config |= {"input_size": (channels, *size), "mean": mean, "std": std}
    timm_transform = create_transform(**config, is_training=False)
    if channels not in (1, 3):
        return transforms.Compose([ToBands(channels, value_range), *timm_transform.transforms])
    steps: list[Any] = [partial(to_rgb, value_range=value_range) if value_range else to_rgb]
    if config["crop_mode"] == "center":
        steps.append(_limit_aspect)
    elif config["crop_mode"] == "border":  # else resizing leaves no pixels of the short side
        steps.append(partial(_limit_aspect, most=min(size)))
    if channels == 1:
        steps.append(transforms.Grayscale())
    return transforms.Compose([*steps, *timm_transform.transforms])


def reduction_for(transform: object) -> Reduction | None:
    """Return how much smaller a JPEG may be decoded for a transform of :func:`eval_transform`.

    The shorter side stays at least twice as long as the transform resizes it to.
    """
    steps = getattr(transform, "transforms", ())
    resize = next((s for s in steps if isinstance(s, transforms.Resize | ResizeKeepRatio)), None)
    if resize is None:
        return None
    size = resize.size if isinstance(resize.size, int) else max(resize.size)
    return partial(_reduction_to, _OVERSAMPLED * size)


def _reduction_to(side: int, width: int, height: int) -> float:
    return min(width, height) / side


def channels_of(transform: object) -> int:
    """Return the number of channels for which :func:`eval_transform` made a transform.

    1 and 3 take PIL images, other numbers images in any form; foreign transforms count as 3.
    """
    for step in getattr(transform, "transforms", ()):
        if isinstance(step, ToBands):
            return step.channels
        if isinstance(step, transforms.Grayscale):
            return 1
    return 3


def takes_bands(transform: object) -> bool:
    """Return whether a transform takes images of another number of bands than RGB or grey."""
    return channels_of(transform) not in (1, 3)


def _per_channel(statistics: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(statistics) == channels:
        return tuple(statistics)
    if channels > 1 and len(set(statistics)) > 1:
        warnings.warn(
            f"the model takes {channels} channels, but its pretrained_cfg has the mean and "
            f"standard deviation of {len(statistics)}; their average is taken for all. If it was "
            "trained with others, pass transform=.",
            stacklevel=3,
        )
    return (sum(statistics) / len(statistics),) * channels


def input_channels(model: nn.Module) -> int:
    """Return the number of channels of the images that a model takes; 3 without a convolution."""
    for module in model.modules():
        if type(module).__name__ in _FOLDING:
            return int(getattr(model, "in_chans", 3))
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def _built_for_size(model: nn.Module) -> tuple[int, int] | None:
    """Return the size (height, width) that a ViT was built for; its configuration may differ."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return (int(size[0]), int(size[1])) if isinstance(size, tuple | list) else None


def _limit_aspect(image: Image.Image, most: int = _MAX_ASPECT) -> Image.Image:
    """Cut off the ends of very long images, which the centre crop would drop after resizing."""
    width, height = image.size
    limit = most * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, width - left, height - top))
