"""Models by name: `create_model`, `create_projector`, `list_models`, `model_info`.

A name is one of the registry (with or without tag), `NAME@REVISION` for another revision of its Hub
repository, `hf-hub:ORG/NAME` or `hf-hub:ORG/NAME@REVISION` for any repository with a model folder,
or `local-dir:DIR`, a folder written by `cassle-zoo hub export`. torch and timm are imported only
when a model is built.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.specs import MODEL_SPECS, ModelSpec, projector_shape
from cassle_zoo.store.cache import hub_source, pinned_spec, unpinned_folder, verified_folder
from cassle_zoo.store.folder import (
    CONFIG_FILE,
    MODEL_FILE,
    PROJECTOR_FILE,
    file_sha256,
    read_config,
)

if TYPE_CHECKING:
    from torch import nn

    from cassle_zoo.projector import ConditionedProjector


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    cache_dir: str | Path | None = None,
    **timm_kwargs: Any,
) -> "nn.Module":
    """Build a backbone, as `timm.create_model` does.

    Args:
        name: Model name with or without tag, `NAME@REVISION`, `hf-hub:ORG/NAME[@REVISION]`, or
            `local-dir:DIR`.
        pretrained: Whether to load the weights: all of them, after checking their hash.
        cache_dir: Where files from the Hub are kept; by default in `HF_HOME`, as usual.
        **timm_kwargs: What timm takes: `num_classes` (default 0, no classifier), `in_chans`,
            `global_pool`, `features_only`, `out_indices`, ...

    Returns:
        The timm model in float32 and in training mode, as timm returns it.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: If nobody has published weights, or the Hub has no such
            repository or revision, or cannot be reached and the files are not in the cache.
        ChecksumError: If a file is not the published one.
        ModelFolderError: If a file is missing, unreadable, or does not hold every weight.
    """
    files = [CONFIG_FILE, MODEL_FILE] if pretrained else [CONFIG_FILE]
    folder = unpinned_folder(name, files, cache_dir=cache_dir)
    if folder is not None:
        return _create_local(folder, pretrained, timm_kwargs)
    import timm

    model: nn.Module = timm.create_model(
        pinned_spec(name).full_name, pretrained, cache_dir=cache_dir, **timm_kwargs
    )
    return model


def _create_local(folder: Path, pretrained: bool, timm_kwargs: dict[str, Any]) -> "nn.Module":
    import timm

    from cassle_zoo.accel.initialisation import skip_random_weights
    from cassle_zoo.store.artifact import backbone_keys
    from cassle_zoo.store.state_dict import check_backbone_keys

    config = read_config(folder)
    if not timm.is_model(config["architecture"]):
        raise ModelFolderError(
            f"{folder / CONFIG_FILE}: timm {timm.__version__} has no model "
            f"{config['architecture']!r}; use the timm version that it was trained with."
        )
    keys = backbone_keys(folder) if pretrained else frozenset[str]()
    if timm_kwargs.get("features_only"):
        timm_kwargs = {**timm_kwargs, "num_classes": 0}
    complete = pretrained and not timm_kwargs.get("num_classes")
    try:
        with skip_random_weights(complete and not timm_kwargs.get("features_only")):
            model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained, **timm_kwargs)
    except Exception as error:
        _check_buildable(folder, config)
        if isinstance(error, RuntimeError):
            raise ModelFolderError(f"{folder} cannot be loaded: {error}") from error
        _check_buildable(folder, config, pretrained)
        raise  # what the caller asked for is to blame
    if not timm_kwargs.get("features_only"):
        # For a feature extractor timm is strict itself: its number of classes is ours, 0.
        if pretrained:
            check_backbone_keys(keys, model)
        if pretrained or not timm_kwargs:
            _check_width(folder, config, model)
    return model


def _check_buildable(folder: Path, config: Mapping[str, Any], pretrained: bool = False) -> None:
    """Check that timm builds what config.json describes, whatever else the caller asked for."""
    import timm

    try:
        timm.create_model(f"local-dir:{folder}", pretrained, num_classes=0)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise ModelFolderError(
            f"{folder / CONFIG_FILE}: timm {timm.__version__} cannot build "
            f"{config['architecture']!r} with model_args {config.get('model_args', {})} and this "
            f"pretrained_cfg ({reason}); use the timm version that it was trained with, or get the "
            "folder again."
        ) from error


def _check_width(folder: Path, config: Mapping[str, Any], model: Any) -> None:
    if model.num_features != config["num_features"]:
        raise ModelFolderError(
            f"{folder / CONFIG_FILE}: num_features is {config['num_features']}, but the model has "
            f"{model.num_features}."
        )


def create_projector(
    name: str, pretrained: bool = False, *, cache_dir: str | Path | None = None
) -> "ConditionedProjector":
    """Build the projector that a model was trained with.

    Args:
        name: As for :func:`create_model`.
        pretrained: Whether to load the weights, after checking their hash.
        cache_dir: Where files from the Hub are kept; by default in `HF_HOME`, as usual.

    Returns:
        The projector in float32 and in training mode, as timm returns models; call `.eval()`
        to use the running statistics of its BatchNorms.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: As for :func:`create_model`.
        ChecksumError: If a file is not the published one.
        ModelFolderError: If a file is missing or unreadable, or the model has no projector.
    """
    from cassle_zoo.projector import ConditionedProjector
    from cassle_zoo.store.artifact import build_projector, load_projector, read_projector_config

    files = [CONFIG_FILE, PROJECTOR_FILE] if pretrained else [CONFIG_FILE]
    folder = unpinned_folder(name, files, cache_dir=cache_dir)
    if folder is not None:
        if pretrained:
            return load_projector(folder)
        return build_projector(read_projector_config(folder), folder)
    spec = pinned_spec(name)
    if pretrained:
        return load_projector(verified_folder(spec, files, cache_dir=cache_dir))
    return ConditionedProjector(_projector_config(spec))


def _projector_config(spec: ModelSpec) -> Any:
    from cassle_zoo.projector import ProjectorConfig

    plain = {} if spec.conditioned else {"conditioning": "none", "descriptors": ()}
    return ProjectorConfig.from_dict(
        {"in_features": spec.num_features, **projector_shape(spec), **plain}
    )


def list_models(pattern: str = "", *, pretrained: bool = False) -> list[str]:
    """List model names with their tags, sorted.

    Args:
        pattern: Shell-style pattern (fnmatch) for the name, with or without tag; empty for all.
        pretrained: Whether to list only models that have published weights.
    """
    names = [name for name, spec in MODEL_SPECS.items() if spec.released or not pretrained]
    if pattern:
        patterns = [pattern] if "." in pattern else [pattern, f"{pattern}.*"]
        names = [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]
    return sorted(names)


def model_info(name: str, *, cache_dir: str | Path | None = None) -> ModelSpec:
    """Return what is known about a model, without importing torch.

    Args:
        name: As for :func:`create_model`. For what the registry does not pin, `sha256` holds the
            hashes of the files as they are in the folder, or in the cache; of a Hub repository
            only config.json is downloaded for this.
        cache_dir: Where files from the Hub are kept; by default in `HF_HOME`, as usual.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: As for :func:`create_model`.
        ModelFolderError: If the folder or repository does not hold a model.
    """
    folder = unpinned_folder(name, [CONFIG_FILE], cache_dir=cache_dir)
    if folder is None:
        return pinned_spec(name)
    source = hub_source(name)
    if source is None:
        return _folder_info(folder)
    return replace(_folder_info(folder), hub_repo=source.repo, hub_revision=folder.name)


def _folder_info(folder: Path) -> ModelSpec:
    config = read_config(folder)
    cfg, own = config["pretrained_cfg"], config["cassle_zoo"]
    base, _, tag = own["name"].partition(".")
    training, projector = own["training"], own.get("projector")
    files = (MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE)
    return ModelSpec(
        name=base,
        tag=tag,
        arch=config["architecture"],
        timm_arch=config["architecture"],
        model_args=config.get("model_args", {}),
        method=own["method"],
        conditioned=projector is not None and projector.get("conditioning") != "none",
        input_size=tuple(cfg["input_size"]),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg.get("interpolation", "bicubic"),
        crop_pct=cfg.get("crop_pct", 1.0),
        num_features=config["num_features"],
        data=str(training.get("data", tag)),
        license=cfg.get("license", "unknown"),
        recipe=str(training.get("recipe", own["name"])),
        sha256={f: file_sha256(folder / f) for f in files if (folder / f).is_file()},
    )
