"""The deterministic transform from an image to a model's input."""

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision import transforms

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.images import to_rgb
from cassle_zoo.features.wrappers import unwrap

Transform: TypeAlias = Callable[[Image.Image], Tensor]

# Beyond this ratio of the sides, resizing the whole image wastes memory without bound.
_MAX_ASPECT = 16


def eval_transform(model: nn.Module | str) -> transforms.Compose:
    """Return the deterministic transform from an image to the model's input.

    As in timm's evaluation, the short side is resized (bicubic unless the model's configuration
    says otherwise) to the input size divided by ``crop_pct``, the centre is cropped, and the result
    is normalised with the model's mean and standard deviation. Models with one input channel get
    grey images and the mean of the statistics. If an image is more than 16 times as long as wide,
    only its middle is resized.

    Args:
        model: A model, also in a wrapper (:func:`cassle_zoo.features.wrappers.unwrap`), or the name
            of one.

    Returns:
        A function from a PIL image of any mode to a float32 tensor (C, H, W); it can be pickled.

    Raises:
        ConfigError: The model takes neither 3 nor 1 channels.
        UnknownNameError: There is no model of that name.

    Warns:
        UserWarning: The model has no configuration, so timm's default is taken: 224 pixels and
            ImageNet's statistics.
    """
    if isinstance(model, str):
        from cassle_zoo.features.models import open_model

        model = open_model(model, pretrained=False)
    found = unwrap(model)
    if found.config is None:
        warnings.warn(
            f"{found.what} has no pretrained_cfg of timm, or several, so images get timm's "
            "defaults: 224 pixels and ImageNet's mean and standard deviation. If it was trained "
            "with others, pass transform=. Its output is taken as the features.",
            stacklevel=2,
        )
    config = resolve_data_config({"chans": 3}, found.config)  # type: ignore[no-untyped-call]
    network = found.network if found.model is None else found.model
    size = _built_for_size(network) or config["input_size"][-2:]
    channels = input_channels(network)
    if channels not in (1, 3):
        raise ConfigError(f"The model takes {channels} channels; give a transform to make them.")
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if channels == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    config |= {"input_size": (channels, *size), "mean": mean, "std": std}
    timm_transform = create_transform(**config, is_training=False)
    steps: list[Any] = [to_rgb]
    if config["crop_mode"] == "center":
        steps.append(_limit_aspect)
    if channels == 1:
        steps.append(transforms.Grayscale())
    return transforms.Compose([*steps, *timm_transform.transforms])


def input_channels(model: nn.Module) -> int:
    """Return the number of channels of a model's first convolution; 3 if it has none."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)


def _built_for_size(model: nn.Module) -> tuple[int, int] | None:
    """Return the size (height, width) that a ViT was built for; its configuration may differ."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return (int(size[0]), int(size[1])) if isinstance(size, tuple | list) else None


def _limit_aspect(image: Image.Image) -> Image.Image:
    """Cut the ends of very long images, which the centre crop would drop after the resizing."""
    width, height = image.size
    limit = _MAX_ASPECT * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, width - left, height - top))
