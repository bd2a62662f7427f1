"""Feature sources: models by name, modules, untrained networks, raw pixels and feature files."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from cassle_zoo.common.errors import (
    CassleZooError,
    ConfigError,
    TimmFolderError,
    UnknownNameError,
    unknown_name,
)
from cassle_zoo.common.files import expand_home, sha256, to_json
from cassle_zoo.common.images import to_rgb
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.features.files import load_features
from cassle_zoo.features.inference import inference
from cassle_zoo.features.transform import eval_transform
from cassle_zoo.features.whitening import OWN, Whitening, open_whitening
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.records import training_settings
from cassle_zoo.specs import DATASETS, RANDOM_INIT, RAW_PIXELS
from cassle_zoo.store.folder import MODEL_FILE, PROJECTOR_FILE
from cassle_zoo.store.model_files import HUB_PREFIX, LOCAL_PREFIX, local_folder, resolve
from cassle_zoo.store.tensors import state_sha256, structure_sha256
from cassle_zoo.zoo.create import create_projector, load_backbone
from cassle_zoo.zoo.timm_names import TIMM_PREFIX, timm_model, timm_name

FEATURES = "features:"
FORMS = (
    "Besides names of the zoo and of timm there are hf-hub:ORG/NAME, local-dir:FOLDER, timm:NAME, "
    "random-init:ARCH, raw-pixels and features:FILE."
)
"""Names of sources, for messages."""
POOLED = 16
DEFAULT_SIZE = 224
_SIDE = 64
# What runs of one model may differ in: seed, device, logs; and the place of files, not the files.
_OF_ONE_RUN = ("run", "data", "init")
_MARK = 8  # hexadecimal digits


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSource:
    """A source of features: a network, or a file of features.

    Attributes:
        name: Name in results, without folders.
        sha256: Hash of the weights; None without weights.
        network: The architecture: timm's name and arguments, such as the number of heads, which
            the weights do not show.
        trained: How it was trained, as far as runs of one model share it: all but the seed. If that
            is unknown, its weights, so that no two such sources pass for runs of one model.
        model: A module from images (B, 3, H, W) to features (B, D); None for a file of features.
        transform: From image to the module's input (3, H, W); None for the module's own.
        features: Content of a file of features.
        projector: Loads the projector that the model was trained with, if there is one.
        whitening: Loads the whitening in the model's folder, or raises a ModelFolderError.
        augment: Settings of the views that the model was trained with, if they are known.
        cacheable: Whether its features may be cached on disk; `sha256`, or else `name`, must then
            stand for one network.
    """

    name: str
    sha256: str | None
    model: nn.Module | None
    network: str = ""
    trained: str = ""
    transform: Callable[[Image.Image], Tensor] | None = None
    features: FeatureSet | None = None
    projector: Callable[[], ConditionedProjector] | None = None
    whitening: Callable[[], Whitening] = lambda: open_whitening(OWN, None)
    augment: Mapping[str, Any] = field(default_factory=dict)
    cacheable: bool = False


def open_source(
    model: str | nn.Module, *, seed: int = 0, size: int | None = None, name: str | None = None
) -> FeatureSource:
    """Open a source by name, or make one from a module.

    Args:
        model: A model's name (with its pretrained weights), ``hf-hub:ORG/NAME``,
            ``local-dir:FOLDER``, ``timm:NAME`` (with timm's pretrained weights),
            ``random-init:ARCH`` (a timm architecture without training), ``raw-pixels`` (the central
            square at 64 px, mean-pooled to 16x16x3), ``features:FILE`` (as `cassle-zoo features`
            writes), or a module.
        seed: Seed of a random initialisation.
        size: Height and width in pixels of a network's input; by default its own, and 64 for
            ``random-init:``.
        name: Name of a module in results.

    Raises:
        UnknownNameError: If there is no such model or architecture.
        WeightsUnavailableError: If no weights of the model are published.
        ModelFolderError: If a folder is not a model folder.
        ConfigError: If the network cannot take images of that size, or `model` is a module, which
            has a size already.
    """
    if isinstance(model, nn.Module):
        if size is not None:
            raise ConfigError(
                f"size {size} is for models given by name; a module takes images of the input_size "
                "in its pretrained_cfg: set that, or leave size out."
            )
        named = name or type(model).__name__
        return dataclasses.replace(_unverified(named, model, "module"), cacheable=False)
    return find_source(model, seed=seed, size=size)()


def zoo_size(model: str) -> int | None:
    """Return the height and width in pixels that a model of the zoo was trained for.

    Args:
        model: Name of a model, as for :func:`open_source`.

    Returns:
        The size; `None` for untrained networks, models of timm, and sources without a network.
    """
    if is_no_network(model) or model.startswith(RANDOM_INIT) or timm_name(model) is not None:
        return None
    try:
        return resolve(model, []).spec.input_size[-1]
    except TimmFolderError:
        return None


def common_size(models: Sequence[str], *, native: int | None = None) -> tuple[int, str] | None:
    """Return the input size at which networks in one comparison are measured.

    Untrained networks and those of timm take images of the size of the zoo's model in the
    comparison, so that none sees more of the images. Models of the zoo keep their own.

    Args:
        models: Names of all models of a comparison.
        native: Size of the dataset's images, if that is fixed.

    Returns:
        The size, and whose it is: that of the first model of the zoo, else the first of timm, else
        the dataset's, else timm's of the first architecture. `None` without networks.
    """
    networks = [model for model in models if not is_no_network(model)]
    for model in networks:
        if (size := zoo_size(model)) is not None:
            return size, f"that of {model}"
    for model in networks:
        if not model.startswith(RANDOM_INIT):
            return _timm_size(model), f"that of {model}"
    if not networks:
        return None
    if native is not None:
        return native, "that of the dataset's images"
    return _timm_size(_known_arch(networks[0])), "timm's of this architecture"


def is_no_network(model: str) -> bool:
    """Return whether a source has no network: raw pixels, or a file of features."""
    return model == RAW_PIXELS or model.startswith(FEATURES)


def _timm_size(model: str) -> int:
    """Return the input size of a timm model, given its name, folder or repository."""
    import timm
    from timm.models import get_pretrained_cfg

    if model.startswith((HUB_PREFIX, LOCAL_PREFIX)):
        module: Any = timm_model(model, pretrained=False)
        return int(module.pretrained_cfg["input_size"][-1])
    name = timm_name(model) or model
    cfg = get_pretrained_cfg(name) if timm.is_model(name) else None
    return DEFAULT_SIZE if cfg is None else int(cfg.input_size[-1])


def find_source(
    model: str, *, seed: int = 0, size: int | None = None
) -> Callable[[], FeatureSource]:
    """Find what is to be evaluated, without building its network.

    Args:
        model: Name of a model, as for :func:`open_source`.
        seed: Seed of a random initialisation.
        size: As for :func:`open_source`.

    Returns:
        A function that opens it.

    Raises:
        UnknownNameError: If there is no such model or architecture.
        WeightsUnavailableError: If the model has no published weights.
        ModelFolderError: If a folder is not a model folder.
        ConfigError: If a source without a network is given a size.
    """
    if size is not None and is_no_network(model):
        raise ConfigError(
            f"size {size} is of networks, and has no effect on {model}; leave it out."
        )
    if model == RAW_PIXELS:
        return partial(
            FeatureSource,
            name=model,
            sha256=None,
            model=MeanPool(),
            transform=_to_unit_tensor,
            cacheable=True,
        )
    if model.startswith(FEATURES):
        return _feature_file(model)
    if model.startswith(RANDOM_INIT):
        return _random_init(model, seed, size or _SIDE)
    try:
        known = timm_name(model)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} {FORMS}") from error
    return _timm(known, size) if known is not None else _pretrained(model, size)


class MeanPool(nn.Module):
    """The baseline without a network: pixels, mean-pooled to 16x16 per channel."""

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 768) of images (B, 3, H, W), H and W multiples of 16."""
        height, width = images.shape[-2:]
        if height % POOLED or width % POOLED:
            raise ConfigError(f"images are {height}x{width}, expected multiples of {POOLED}.")
        return nn.functional.avg_pool2d(images, (height // POOLED, width // POOLED)).flatten(1)


def _to_unit_tensor(image: Image.Image) -> Tensor:
    image = to_rgb(image)
    if image.size != (_SIDE, _SIDE):
        image = ImageOps.fit(image, (_SIDE, _SIDE), Image.Resampling.BICUBIC)
    pixels: Tensor = pil_to_tensor(image)
    return pixels.float() / 255


def _known_arch(model: str) -> str:
    """Return the architecture of `random-init:ARCH`."""
    import timm

    arch = model.removeprefix(RANDOM_INIT)
    if not timm.is_model(arch):
        found = unknown_name(
            "architecture", arch, timm.list_models(), listed_by="timm.list_models()"
        )
        raise UnknownNameError(f"{found} {FORMS}")
    return arch


def _random_init(model: str, seed: int, size: int) -> Callable[[], FeatureSource]:
    import timm

    arch = _known_arch(model)
    data = DATASETS["emoji64"]
    overlay = {
        "input_size": (3, size, size),
        "mean": data.mean,
        "std": data.std,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    }

    def build(**kwargs: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module: nn.Module = timm.create_model(
                arch, num_classes=0, pretrained_cfg_overlay=overlay, **kwargs
            )
        return module

    return lambda: _unverified(model, _at_size(build, model, size), arch, "not trained")


def _pretrained(model: str, size: int | None) -> Callable[[], FeatureSource]:
    try:
        files = resolve(model, [MODEL_FILE])
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} {FORMS}") from error
    except TimmFolderError:
        return _timm(model, size)
    if files.verified:
        projector_of = files.spec.full_name
        has_projector = PROJECTOR_FILE in (files.spec.sha256 or {})
    elif files.commit is not None:
        # The commit, because branches move, and the projector must be from the same one.
        projector_of = f"hf-hub:{files.spec.hub_repo}@{files.commit}"
        # It is downloaded when it is asked for.
        has_projector = files.has_projector
    else:
        projector_of = model
        has_projector = files.has_projector and (files.folder / PROJECTOR_FILE).is_file()
    load_own_projector = partial(create_projector, projector_of, pretrained=True)
    arguments = json.dumps(dict(files.spec.model_args), sort_keys=True)
    network = f"{files.spec.timm_arch} {arguments}".removesuffix(" {}")
    weights = files.sha256(MODEL_FILE)
    training = files.config["cassle_zoo"]["training"]
    augment = training_settings(training).get("augment")
    return lambda: FeatureSource(
        name=files.spec.full_name,
        sha256=weights,
        model=_at_size(partial(load_backbone, files), model, size),
        network=network,
        trained=_trained(training, weights),
        projector=load_own_projector if has_projector else None,
        whitening=partial(open_whitening, OWN, projector_of),
        augment=augment if isinstance(augment, dict) else {},
        cacheable=True,
    )


def _trained(training: Mapping[str, Any], weights: str | None) -> str:
    config = training_settings(training)
    if not config:
        return _unknown_training(weights)
    settings = {name: value for name, value in config.items() if name not in _OF_ONE_RUN}
    data = config.get("data", {})
    data = {**data, "root": "", "workers": 0} if isinstance(data, dict) else data
    start = (training.get("init") or {}).get("sha256")
    known = [training.get("data"), training.get("images"), start, data, settings]
    if "total_steps" in training or "source" in training:  # a snapshot, or perhaps unfinished
        known.append(training.get("steps"))
    return f"training {sha256(to_json(known))[:_MARK]}"


def _unknown_training(weights: str | None) -> str:
    return f"weights {str(weights)[:_MARK]}"


def _timm(model: str, size: int | None) -> Callable[[], FeatureSource]:
    """Find a model of timm: its name, or `hf-hub:` or `local-dir:` of what timm wrote."""
    name, advice = model, ""
    if model.startswith(LOCAL_PREFIX):
        name = f"{LOCAL_PREFIX}{local_folder(model).resolve().name}"
    elif not model.startswith(HUB_PREFIX):
        name = f"{TIMM_PREFIX}{model}"
        advice = f"name {RANDOM_INIT}{model}, which needs none but is not trained"

    def build() -> FeatureSource:
        module: Any = _at_size(partial(timm_model, model, advice=advice), name, size)
        network = model if advice else module.pretrained_cfg["architecture"]
        return _unverified(name, module, network)

    return build


def _at_size(build: Callable[..., nn.Module], name: str, size: int | None) -> nn.Module:
    """Build a network for square images of a size; networks of fixed size are made for it."""
    module: Any = build()
    if size is None:
        return cast(nn.Module, module)
    small = Image.new("RGB", (8, 8))
    own = module.pretrained_cfg["input_size"][-1]
    try:
        if eval_transform(module)(small).shape[-2:] != (size, size):
            if getattr(getattr(module, "patch_embed", None), "img_size", None) is not None:
                module = build(img_size=size)
            module.pretrained_cfg = {**module.pretrained_cfg, "input_size": (3, size, size)}
        # Some networks can be built for any size, and fail only when they run.
        with inference(module, torch.device("cpu")):
            module(eval_transform(module)(small)[None])
    except (AssertionError, CassleZooError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error.__cause__ or error).rstrip(".")
        known = f"Its own size is {own} px; pass it" if own != size else "Pass another"
        raise ConfigError(
            f"{name} cannot be made for images of {size} px: {reason}. {known} "
            "with --size, or measure it in a command of its own."
        ) from error
    return cast(nn.Module, module)


def _unverified(name: str, module: nn.Module, network: str, trained: str = "") -> FeatureSource:
    weights = state_sha256(module)
    return FeatureSource(
        name=name,
        sha256=weights,
        model=module,
        # The arguments it was built with, which folders and repositories of timm may set.
        network=f"{network}, structure {structure_sha256(module)[:_MARK]}",
        trained=trained or _unknown_training(weights),
        cacheable=True,
    )


def _feature_file(model: str) -> Callable[[], FeatureSource]:
    path = expand_home(model.removeprefix(FEATURES))
    features = load_features(path)
    found = (own for own in path.glob("[!.]*") if own.is_file())  # without .DS_Store of macOS
    files = sorted(found) if path.is_dir() else [path]
    hashes = [sha256(own) for own in files]
    content = hashes[0] if path.is_file() else sha256("\n".join(hashes))
    return partial(
        FeatureSource,
        name=f"{FEATURES}{path.name}",
        sha256=content,
        model=None,
        trained=_unknown_training(content),
        features=features,
    )
