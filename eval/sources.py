"""What can be evaluated: models by name, modules, random initialisations and raw pixels."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from cassle_zoo.errors import ConfigError, unknown_name
from cassle_zoo.hub_cache import hub_source, pinned_spec, unpinned_folder
from cassle_zoo.model_folder import CONFIG_FILE, MODEL_FILE, file_sha256, read_config
from cassle_zoo.specs import DATASETS

RANDOM_INIT = "random-init:"
RAW_PIXELS = "raw-pixels"
POOLED = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSource:
    """Something that turns pictures into features.

    Attributes:
        name: Name in results: of the model, without folders.
        argument: What the command line calls it; None if only Python can name it.
        sha256: Hash of the weights; None without weights.
        model: A module from images (B, 3, H, W) to features (B, D).
        transform: From picture to the module's input (3, H, W); None for the module's own.
    """

    name: str
    argument: str | None
    sha256: str | None
    model: nn.Module
    transform: Callable[[Image.Image], Tensor] | None


def open_source(model: str | nn.Module, *, seed: int = 0, name: str | None = None) -> FeatureSource:
    """Build what is to be evaluated.

    Args:
        model: A model's name (with its pretrained weights), ``hf-hub:ORG/NAME``,
            ``local-dir:FOLDER``, ``random-init:ARCH`` (a timm architecture without training, made
            for 64 px input), ``raw-pixels`` (mean-pooled to 16x16x3), or a module.
        seed: Seed of a random initialisation.
        name: Name in results of a module.

    Returns:
        The source of features.

    Raises:
        UnknownNameError: If there is no such model or architecture.
        WeightsUnavailableError: If nobody has published weights of the model.
        ArtifactError: If a folder is no model folder.
    """
    if isinstance(model, nn.Module):
        return FeatureSource(
            name=name or type(model).__name__,
            argument=None,
            sha256=state_sha256(model),
            model=model,
            transform=None,
        )
    if model == RAW_PIXELS:
        return FeatureSource(
            name=model,
            argument=model,
            sha256=None,
            model=MeanPool(),
            transform=_to_unit_tensor,
        )
    if model.startswith(RANDOM_INIT):
        return _random_init(model, seed)
    return _pretrained(model)


def state_sha256(model: nn.Module) -> str:
    """Return a hash of all parameters and buffers: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class MeanPool(nn.Module):
    """The baseline without a network: pixels, mean-pooled to 16x16 per channel."""

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 768) of images (B, 3, H, W), H and W multiples of 16."""
        height, width = images.shape[-2:]
        if height % POOLED or width % POOLED:
            raise ConfigError(f"images are {height}x{width}, expected multiples of {POOLED}.")
        return nn.functional.avg_pool2d(images, (height // POOLED, width // POOLED)).flatten(1)


def _to_unit_tensor(image: Image.Image) -> Tensor:
    pixels: Tensor = pil_to_tensor(image)
    return pixels.float() / 255


def _random_init(model: str, seed: int) -> FeatureSource:
    import timm

    arch = model.removeprefix(RANDOM_INIT)
    if not timm.is_model(arch):
        raise unknown_name("architecture", arch, timm.list_models())
    data = DATASETS["emoji64"]
    overlay = {
        "input_size": data.input_size,
        "mean": data.mean,
        "std": data.std,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: Any = timm.create_model(arch, num_classes=0, pretrained_cfg_overlay=overlay)
    return FeatureSource(
        name=model, argument=model, sha256=state_sha256(module), model=module, transform=None
    )


def _pretrained(model: str) -> FeatureSource:
    from cassle_zoo.factory import create_model

    folder = unpinned_folder(model, [CONFIG_FILE, MODEL_FILE])
    if folder is not None:
        name = read_config(folder)["cassle_zoo"]["name"]
        module = create_model(f"local-dir:{folder}", pretrained=True)
        # No path, because results are published; the commit, because branches move.
        source = hub_source(model)
        argument = (
            f"hf-hub:{source.repo}@{folder.name}"
            if source
            else f"local-dir:{folder.resolve().name}"
        )
        sha256 = file_sha256(folder / MODEL_FILE)
    else:
        spec = pinned_spec(model)
        name = argument = spec.full_name
        module = create_model(name, pretrained=True)
        sha256 = (spec.sha256 or {})[MODEL_FILE]
    return FeatureSource(name=name, argument=argument, sha256=sha256, model=module, transform=None)
