"""From images to features: the evaluation transform and batched extraction."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

from cassle_zoo.accel.fused import fuse_for_inference
from cassle_zoo.common.devices import to_device
from cassle_zoo.common.errors import ConfigError, DataError, UnknownNameError
from cassle_zoo.common.images import UnreadableImageError, to_rgb
from cassle_zoo.features.inference import choose_device, embed, inference
from cassle_zoo.features.inputs import InputImage, Skipped, expand_inputs

Transform: TypeAlias = Callable[[Image.Image], Tensor]

# Beyond this ratio of the sides, resizing the whole image wastes memory without bound.
_MAX_ASPECT = 16


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of images, with where each came from.

    Attributes:
        features: (N, D) float32 on the CPU, in the order of the input.
        sources: N names: the file, or the position in the input such as ``"input[3]"``.
        skipped: The images that were left out, and why; empty if all were read.
    """

    features: Tensor
    sources: list[str]
    skipped: list[Skipped] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sources)


def eval_transform(model: nn.Module | str) -> transforms.Compose:
    """Return the deterministic transform from an image to the model's input.

    As in timm's evaluation, the short side is resized (bicubic unless the model's configuration
    says otherwise) to the input size divided by ``crop_pct``, the centre is cropped, and the result
    is normalised with the model's mean and standard deviation. Models without a configuration get
    timm's default: 224 pixels and ImageNet's statistics. Models with one input channel get grey
    images and the mean of the statistics. If an image is more than 16 times as long as wide, only
    its middle is resized.

    Args:
        model: A model, or the name of one.

    Returns:
        A function from a PIL image of any mode to a float32 tensor (C, H, W); it can be pickled.

    Raises:
        ConfigError: The model takes neither 3 nor 1 channels.
        UnknownNameError: There is no model of that name.
    """
    if isinstance(model, str):
        model = _create_model(model, pretrained=False)
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    size = _built_for_size(model) or config["input_size"][-2:]
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
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


def extract_features(
    model: nn.Module | str,
    inputs: Any,
    *,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    num_workers: int = 0,
    precision: str = "fp32",
    transform: Transform | Literal["as_is"] | None = None,
    progress: bool | None = None,
) -> FeatureSet:
    """Compute the features of images, leaving out those that cannot be read.

    Features are the input of the model's classifier: the classifier of a timm model is not
    applied. The weights, device and training mode of a model given as an object do not change.

    Args:
        model: A model (timm, cassle_zoo, or any module that maps (B, C, H, W) to (B, D)), or a
            name of timm or one that :func:`cassle_zoo.create_model` takes, which is loaded with
            its pretrained weights.
        inputs: A file, a folder, PIL images, arrays ((H, W) or (H, W, C); uint8, uint16, or float
            in [0, 1]), tensors ((C, H, W) or (N, C, H, W); the same types), a list of these, or a
            map-style dataset of images or ``(image, label, ...)``. Arrays and tensors become
            8-bit images first, so that the same image has the same features in every form.
            :func:`cassle_zoo.data.listing.list_images` says which files of a folder count.
        batch_size: Images at a time; it does not change the features.
        device: Where to compute. Default: the model's device if it is not the CPU, else a GPU if
            there is one.
        num_workers: Processes that read images; 0 reads in this process, files in threads.
        precision: ``"fp32"``, ``"bf16"`` (autocast) or ``"auto"``: bf16 where the hardware
            computes in it natively.
        transform: From an RGB image to the model's input, by default :func:`eval_transform`.
            ``"as_is"`` takes tensors (C, H, W), all of one size, which are ready for the model.
        progress: Show a progress bar on stderr; by default only if that is a terminal.

    Returns:
        The features with their sources, and the images that were left out.

    Raises:
        DataError: A file or folder does not exist, or no image could be read.
        ConfigError: A setting is not allowed, or the model does not return (B, D).
        UnknownNameError: There is no such model or precision.
    """
    if batch_size < 1 or num_workers < 0:
        raise ConfigError(
            f"batch_size={batch_size}, num_workers={num_workers}: they must be at least 1 and 0."
        )
    images, skipped = expand_inputs(inputs)
    if not images:
        raise DataError(_nothing_read(skipped))
    if isinstance(model, str):
        model = _create_model(model, pretrained=True)
    target = choose_device(model, device)
    own = transform is None and all(isinstance(i.value, str | os.PathLike) for i in images)
    threads = torch.get_num_threads() if own and num_workers == 0 else 1
    loader = DataLoader(
        _Images(images, eval_transform(model) if transform is None else transform, threads),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        # Tensors taken as they are may be on the GPU already, where nothing can be pinned.
        pin_memory=target.type == "cuda" and transform != "as_is",
        # Without its own generator the loader would advance the global one.
        generator=torch.Generator(),
    )
    rows: list[Tensor] = []
    sources: list[str] = []
    disable = None if progress is None else not progress
    bar = tqdm(total=len(images), unit="img", desc="features", file=sys.stderr, disable=disable)
    remaining = iter(images)
    with bar, inference(model, target, precision):
        network = fuse_for_inference(model, target, precision)
        for batch, reasons in loader:
            for reason, image in zip(reasons, remaining, strict=False):
                if reason is None:
                    sources.append(image.source)
                else:
                    skipped.append(Skipped(image.source, reason))
            if batch is not None:
                rows.append(embed(network, to_device(batch, target)))
            bar.update(len(reasons))
    if not rows:
        raise DataError(_nothing_read(skipped))
    return FeatureSet(torch.cat(rows), sources, skipped)


class _Images(Dataset[tuple[Tensor | None, str | None]]):
    """Transformed images; for one that cannot be read, the reason instead."""

    def __init__(
        self, images: list[InputImage], transform: Transform | Literal["as_is"], threads: int
    ) -> None:
        self.images = images
        self.transform = transform
        self.threads = threads

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor | None, str | None]]:
        # Pillow decodes and resizes without holding the GIL.
        if self.threads == 1:
            return [self[index] for index in indices]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self.__getitem__, indices))

    def __getitem__(self, index: int) -> tuple[Tensor | None, str | None]:
        image = self.images[index]
        try:
            if not isinstance(self.transform, str):
                return self.transform(image.image()), None
            tensor = image.raw()
        except UnreadableImageError as error:
            return None, error.reason
        if not isinstance(tensor, Tensor):
            raise ConfigError(
                f"{image.source} is a {type(tensor).__name__}; transform='as_is' takes tensors."
            )
        return tensor, None


def _collate(
    samples: list[tuple[Tensor | None, str | None]],
) -> tuple[Tensor | None, list[str | None]]:
    tensors = [tensor for tensor, _ in samples if tensor is not None]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ConfigError(f"Transformed images differ in shape: {sorted(shapes)}.")
    return torch.stack(tensors) if tensors else None, [reason for _, reason in samples]


def _create_model(name: str, *, pretrained: bool) -> nn.Module:
    from cassle_zoo.zoo.create import create_model

    # Other models of timm are welcome too, to be compared with.
    try:
        return create_model(name, pretrained=pretrained)
    except UnknownNameError:
        if not timm.is_model(name.removeprefix("timm/")):
            raise
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
        return model


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


def _nothing_read(skipped: list[Skipped]) -> str:
    if not skipped:
        return "No images were given."
    shown = "; ".join(f"{skip.source!r}: {skip.reason}" for skip in skipped[:5])
    more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return f"No image could be read: {shown}{more}."
