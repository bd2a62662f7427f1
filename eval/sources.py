"""Feature sources: models by name, modules, untrained networks, raw pixels and feature files."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from cassle_zoo.common.errors import (
    ConfigError,
    UnknownNameError,
    unknown_name,
)
from cassle_zoo.common.files import expand_home, sha256
from cassle_zoo.common.images import to_rgb
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.features.files import load_features
from cassle_zoo.features.models import check_timm_tag, state_sha256, timm_model
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.specs import DATASETS, RANDOM_INIT, RAW_PIXELS
from cassle_zoo.store.folder import MODEL_FILE, PROJECTOR_FILE
from cassle_zoo.store.model_files import resolve

FEATURES = "features:"
TIMM = "timm:"
FORMS = (
    "Besides names of the zoo there are hf-hub:ORG/NAME, local-dir:FOLDER, timm:NAME, "
    "random-init:ARCH, raw-pixels and features:FILE."
)
"""Names of sources, for messages."""
POOLED = 16
_SIDE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSource:
    """A source of features: a network, or a file of features.

    Attributes:
        name: Name in results, without folders.
        argument: Name on the command line; None if it has none.
        sha256: Hash of the weights; None without weights.
        network: The architecture: timm's name and arguments, such as the number of heads, which
            the weights do not show.
        model: A module from images (B, 3, H, W) to features (B, D); None for a file of features.
        transform: From image to the module's input (3, H, W); None for the module's own.
        features: Content of a file of features.
        projector: Loads the projector that the model was trained with, if there is one.
        augment: Settings of the views that the model was trained with, if they are known.
    """

    name: str
    argument: str | None
    sha256: str | None
    model: nn.Module | None
    network: str = ""
    transform: Callable[[Image.Image], Tensor] | None = None
    features: FeatureSet | None = None
    projector: Callable[[], ConditionedProjector] | None = None
    augment: Mapping[str, Any] = field(default_factory=dict)


def open_source(model: str | nn.Module, *, seed: int = 0, name: str | None = None) -> FeatureSource:
    """Open a source by name, or make one of a module.

    Args:
        model: A model's name (with its pretrained weights), ``hf-hub:ORG/NAME``,
            ``local-dir:FOLDER``, ``timm:NAME`` (with timm's pretrained weights),
            ``random-init:ARCH`` (a timm architecture without training, made for 64 px input),
            ``raw-pixels`` (the central square at 64 px, mean-pooled to 16x16x3), ``features:FILE``
            (as `cassle-zoo features` writes), or a module.
        seed: Seed of a random initialisation.
        name: Name of a module in results.

    Raises:
        UnknownNameError: If there is no such model or architecture.
        WeightsUnavailableError: If no weights of the model are published.
        ModelFolderError: If a folder is not a model folder.
    """
    if isinstance(model, nn.Module):
        return FeatureSource(
            name=name or type(model).__name__,
            argument=None,
            sha256=state_sha256(model),
            model=model,
        )
    return find_source(model, seed=seed)()


def find_source(model: str, *, seed: int = 0) -> Callable[[], FeatureSource]:
    """Find what is to be evaluated, without building its network.

    Args:
        model: Name of a model, as for :func:`open_source`.
        seed: Seed of a random initialisation.

    Returns:
        A function that opens it.

    Raises:
        UnknownNameError: If there is no such model or architecture.
        WeightsUnavailableError: If the model has no published weights.
        ModelFolderError: If a folder is not a model folder.
    """
    if model == RAW_PIXELS:
        return partial(
            FeatureSource,
            name=model,
            argument=model,
            sha256=None,
            model=MeanPool(),
            transform=_to_unit_tensor,
        )
    if model.startswith(RANDOM_INIT):
        return _random_init(model, seed)
    if model.startswith(FEATURES):
        return _feature_file(model)
    if model.startswith(TIMM):
        return _timm(model)
    return _pretrained(model)


class MeanPool(nn.Module):
    """The baseline without a network: pixels, mean-pooled to 16x16 per channel."""

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 768) of images (B, 3, H, W), H and W multiples of 16."""
        height, width = images.shape[-2:]
        if height % POOLED or width % POOLED:
            raise ConfigError(f"images are {height}x{width}, expected multiples of {POOLED}.")
        return nn.functional.avg_pool2d(images, (height // POOLED, width // POOLED)).flatten(1)


def _to_unit_tensor(image: Image.Image) -> Tensor:
    if image.size != (_SIDE, _SIDE):
        image = ImageOps.fit(to_rgb(image), (_SIDE, _SIDE), Image.Resampling.BICUBIC)
    pixels: Tensor = pil_to_tensor(image)
    return pixels.float() / 255


def _random_init(model: str, seed: int) -> Callable[[], FeatureSource]:
    import timm

    arch = model.removeprefix(RANDOM_INIT)
    if not timm.is_model(arch):
        raise _unknown("architecture", arch, timm.list_models())
    data = DATASETS["emoji64"]
    overlay = {
        "input_size": data.input_size,
        "mean": data.mean,
        "std": data.std,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    }

    def build() -> FeatureSource:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module: Any = timm.create_model(arch, num_classes=0, pretrained_cfg_overlay=overlay)
        return _of_timm(model, module, arch)

    return build


def _pretrained(model: str) -> Callable[[], FeatureSource]:
    from cassle_zoo.zoo.create import create_projector, load_backbone

    try:
        files = resolve(model, [MODEL_FILE])
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} {FORMS}") from error
    if files.verified:
        argument = projector_of = files.spec.full_name
        has_projector = PROJECTOR_FILE in (files.spec.sha256 or {})
    elif files.commit is not None:
        # The commit, because branches move, and the projector must be from the same one.
        argument = projector_of = f"hf-hub:{files.spec.hub_repo}@{files.commit}"
        # It is downloaded when it is asked for.
        has_projector = files.has_projector
    else:
        # No path, because results are published.
        argument, projector_of = f"local-dir:{files.folder.resolve().name}", model
        has_projector = files.has_projector and (files.folder / PROJECTOR_FILE).is_file()
    load_own_projector = partial(create_projector, projector_of, pretrained=True)
    network = f"{files.spec.timm_arch} {json.dumps(dict(files.spec.model_args), sort_keys=True)}"
    return lambda: FeatureSource(
        name=files.spec.full_name,
        argument=argument,
        sha256=files.sha256(MODEL_FILE),
        model=load_backbone(files),
        network=network,
        projector=load_own_projector if has_projector else None,
        augment=_augment_settings(files.config["cassle_zoo"]["training"]),
    )


def _augment_settings(training: Mapping[str, Any]) -> Mapping[str, Any]:
    config = training.get("config")
    augment = config.get("augment") if isinstance(config, dict) else None
    return augment if isinstance(augment, dict) else {}


def _timm(model: str) -> Callable[[], FeatureSource]:
    import timm

    name = model.removeprefix(TIMM)
    if not timm.is_model(name):
        raise _unknown("model of timm", name, timm.list_models())

    check_timm_tag(name)

    def build() -> FeatureSource:
        advice = f"; {RANDOM_INIT}{name} needs none, but is not trained"
        return _of_timm(model, timm_model(name, advice=advice), name)

    return build


def _of_timm(model: str, module: nn.Module, network: str) -> FeatureSource:
    return FeatureSource(
        name=model,
        argument=model,
        sha256=state_sha256(module),
        model=module,
        network=network,
    )


def _unknown(kind: str, name: str, names: Sequence[str]) -> UnknownNameError:
    found = unknown_name(kind, name, names, listed_by="timm.list_models()")
    return UnknownNameError(f"{found} {FORMS}")


def _feature_file(model: str) -> Callable[[], FeatureSource]:
    path = expand_home(model.removeprefix(FEATURES))
    return partial(
        FeatureSource,
        name=f"{FEATURES}{path.name}",
        argument=f"{FEATURES}{path.name}",
        sha256=sha256(path),
        model=None,
        features=load_features(path),
    )
