"""Models by name: `create_model`, `create_projector`, `list_models`, `model_info`.

A name is one from the registry (with or without tag), `NAME@REVISION` for another revision of its
Hub repository, `hf-hub:ORG/NAME` or `hf-hub:ORG/NAME@REVISION` for any repository with a model
folder, or `local-dir:DIR`, a folder written by `cassle-zoo hub export`. `create_model` also takes
models of timm, by name, repository or folder. torch and timm are imported only when a model is
built.
"""

import fnmatch
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cassle_zoo.common.errors import ModelFolderError, TimmFolderError
from cassle_zoo.specs import MODEL_SPECS, ModelSpec, projector_shape
from cassle_zoo.store.folder import CONFIG_FILE, MODEL_FILE, PROJECTOR_FILE
from cassle_zoo.store.model_files import ModelFiles, registered, resolve

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
            `local-dir:DIR`; also a model of timm, by `NAME` or `timm:NAME`, or a repository or
            folder that timm wrote.
        pretrained: Whether to load the weights. Those of a model folder are loaded completely or
            not at all; those of the zoo are checked against their published hash first.
        cache_dir: The Hub client's cache; by default the one in `HF_HOME`.
        **timm_kwargs: timm's arguments: `num_classes` (default 0, no classifier), `in_chans`,
            `global_pool`, `features_only`, `out_indices`, ...

    Returns:
        The timm model in float32 and in training mode, as timm returns it.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: If no weights are published, the Hub has no such repository or
            revision, or it cannot be reached and the files are not cached.
        ChecksumError: If a file is not the published one.
        ModelFolderError: If a file is missing, unreadable, or does not hold every weight.

    Examples:
        >>> model = cassle_zoo.create_model("resnet18_cassle_simclr", pretrained=True).eval()
        >>> with torch.no_grad():
        ...     model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 512])
        >>> cassle_zoo.create_model("resnet18_cassle_simclr", num_classes=10).fc
        Linear(in_features=512, out_features=10, bias=True)
    """
    import timm

    from cassle_zoo.zoo.timm_names import timm_model, timm_name

    if (known := timm_name(name)) is not None:
        return timm_model(known, pretrained, cache_dir=cache_dir, **timm_kwargs)
    if (spec := registered(name)) is None:
        try:
            files = resolve(name, [MODEL_FILE] if pretrained else [], cache_dir=cache_dir)
        except TimmFolderError:
            return timm_model(name, pretrained, cache_dir=cache_dir, **timm_kwargs)
        return load_backbone(files, pretrained, **timm_kwargs)
    # cassle_zoo.zoo.registry resolves the name, also for users who call timm themselves.
    model: nn.Module = timm.create_model(
        spec.full_name, pretrained, cache_dir=cache_dir, **timm_kwargs
    )
    return model


def load_backbone(files: ModelFiles, pretrained: bool = True, **timm_kwargs: Any) -> "nn.Module":
    """Build the backbone of a model folder.

    Args:
        files: From :func:`cassle_zoo.store.resolve`, with the weights if they are to be loaded.
        pretrained: Whether to load the weights, all of them.
        **timm_kwargs: As for :func:`create_model`.

    Raises:
        ModelFolderError: If a file does not fit config.json, or timm cannot build the model.
    """
    import timm
    from timm.models import NaFlexVit

    from cassle_zoo.accel.initialisation import skip_random_weights
    from cassle_zoo.store.tensors import CopiedTensors, check_backbone_keys, tensor_names
    from cassle_zoo.zoo.width import feature_width, without_weights

    path, config = files.folder / CONFIG_FILE, files.config
    architecture, model_args = config["architecture"], config.get("model_args", {})
    if not timm.is_model(architecture):
        raise ModelFolderError(
            f"{path}: timm {timm.__version__} has no model {architecture!r}; use the timm version "
            "it was trained with."
        )
    names: Iterable[str] = tensor_names(files.folder / MODEL_FILE) if pretrained else ()
    features_only = timm_kwargs.get("features_only")
    if features_only:
        timm_kwargs = {**timm_kwargs, "num_classes": 0}
    complete = pretrained and not timm_kwargs.get("num_classes") and not features_only
    loaded = CopiedTensors()
    try:
        with skip_random_weights(complete), loaded:
            model = _timm_model(files, pretrained, timm_kwargs)
    except Exception as error:
        _check_buildable(files)
        if isinstance(error, RuntimeError):
            raise ModelFolderError(f"{files.folder} cannot be loaded: {error}") from error
        _check_buildable(files, pretrained)
        raise  # the caller's arguments are to blame
    if pretrained:
        # timm's feature extractors lack layers, or name them otherwise, and not all load strictly.
        whole = without_weights(architecture, model_args) if features_only else model
        if isinstance(model, NaFlexVit):  # whose weights timm renames
            names = loaded.names(model)
        check_backbone_keys(names, whole)
    if not features_only:
        stated = config["num_features"]
        # In some of timm's families the attribute is not the width, but it is cheap to look at.
        if (pretrained or not timm_kwargs) and model.num_features != stated:
            size = tuple(config["pretrained_cfg"]["input_size"])
            found = feature_width(architecture, model_args, size)
            if found != stated:
                raise ModelFolderError(
                    f"{path}: num_features is {stated}, but the model has {found}."
                )
    return model


def _timm_model(files: ModelFiles, pretrained: bool, timm_kwargs: dict[str, Any]) -> "nn.Module":
    """Do what `timm.create_model("local-dir:DIR")` does, without reading config.json again."""
    import timm
    from timm.models import build_model_with_cfg

    from cassle_zoo.zoo.registry import pool_size

    architecture = files.config["architecture"]
    model_args = files.config.get("model_args", {})
    cfg = {
        # Folders of earlier versions lack it.
        "pool_size": pool_size(architecture, files.config["pretrained_cfg"]["input_size"]),
        **files.config["pretrained_cfg"],
        "num_classes": files.config["num_classes"],
        "file": str(files.folder),
        "source": "local-dir",
    }
    given = {k: v for k, v in timm_kwargs.items() if v is not None}
    # From 1.0.31 on, timm adapts position embeddings by the arguments that the weights were made
    # with.
    if model_args and "pretrained_model_args" in inspect.signature(build_model_with_cfg).parameters:
        given["pretrained_model_args"] = model_args
    model: nn.Module = timm.create_model(
        architecture, pretrained, pretrained_cfg=cfg, **{**model_args, **given}
    )
    return model


def _check_buildable(files: ModelFiles, pretrained: bool = False) -> None:
    """Check that timm builds what config.json describes, without the caller's arguments."""
    import timm

    try:
        _timm_model(files, pretrained, {"num_classes": 0})
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise ModelFolderError(
            f"{files.folder / CONFIG_FILE}: timm {timm.__version__} cannot build "
            f"{files.config['architecture']!r} with model_args "
            f"{files.config.get('model_args', {})} and this pretrained_cfg ({reason}); use the "
            "timm version it was trained with, or get the folder again."
        ) from error


def create_projector(
    name: str, pretrained: bool = False, *, cache_dir: str | Path | None = None
) -> "ConditionedProjector":
    """Build the projector that a model was trained with.

    Args:
        name: As for :func:`create_model`, but none of timm, whose models have no projector.
        pretrained: Whether to load the weights, after checking their hash.
        cache_dir: The Hub client's cache; by default the one in `HF_HOME`.

    Returns:
        The projector in float32 and in training mode, as timm returns models; call `.eval()`
        to use the running statistics of its BatchNorms.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: As for :func:`create_model`.
        ChecksumError: If a file is not the published one.
        ModelFolderError: If a file is missing or unreadable, or the model has no projector.

    Examples:
        Conditioned on omega, here that of images that were not augmented:

        >>> projector = cassle_zoo.create_projector("resnet18_cassle_simclr", pretrained=True)
        >>> projector = projector.eval()
        >>> omega = torch.zeros(2, projector.layout.width)
        >>> omega[:, projector.layout.slices()["crop"]] = torch.tensor([0.5, 0.5, 1.0, 1.0])
        >>> with torch.no_grad():
        ...     projector(torch.rand(2, 512), omega).shape
        torch.Size([2, 128])
    """
    from cassle_zoo.projector import ConditionedProjector, ProjectorConfig

    if pretrained:
        return load_projector(resolve(name, [PROJECTOR_FILE], cache_dir=cache_dir))
    if (spec := registered(name)) is None:
        return _build_projector(resolve(name, [], cache_dir=cache_dir))
    plain = {} if spec.conditioned else {"conditioning": "none", "descriptors": ()}
    return ConditionedProjector(
        ProjectorConfig.from_dict(
            {"in_features": spec.num_features, **projector_shape(spec), **plain}
        )
    )


def load_projector(files: ModelFiles) -> "ConditionedProjector":
    """Build the projector of a model folder with its weights, in float32.

    Args:
        files: From :func:`cassle_zoo.store.resolve`, with `projector.safetensors`.

    Raises:
        ModelFolderError: If there is no projector, or weights and configuration contradict each
            other.
    """
    import torch

    from cassle_zoo.store.tensors import check_fit, read_tensors

    # Without memory for weights, since the configuration may come from anybody.
    with torch.device("meta"):
        projector = _build_projector(files)
    path = files.folder / PROJECTOR_FILE
    state = read_tensors(path)
    check_fit(projector, state, path)
    projector.to_empty(device="cpu").load_state_dict(state)
    return projector


def _build_projector(files: ModelFiles) -> "ConditionedProjector":
    path = files.folder / CONFIG_FILE
    if not files.has_projector:
        raise ModelFolderError(f"{path}: the model has no projector, only a backbone.")
    return build_projector(files.config["cassle_zoo"]["projector"], path)


def build_projector(fields: Mapping[str, Any], path: Path) -> "ConditionedProjector":
    """Build an untrained projector.

    Args:
        fields: Those of its `ProjectorConfig`.
        path: The file that they are from.

    Raises:
        ModelFolderError: If they do not describe a projector that can be built.
    """
    from cassle_zoo.projector import ConditionedProjector, ProjectorConfig

    try:
        config = ProjectorConfig.from_dict(fields)
    except (TypeError, ValueError) as error:
        raise ModelFolderError(f"{path}: {error}") from error
    try:
        return ConditionedProjector(config)
    except (RuntimeError, TypeError) as error:  # torch's for sizes that it cannot represent
        reason = " ".join(str(error).split())[:200]
        raise ModelFolderError(f"{path}: the projector cannot be built ({reason}).") from error


def list_models(pattern: str = "", *, pretrained: bool = False) -> list[str]:
    """List model names with their tags, sorted.

    Args:
        pattern: Shell-style pattern (fnmatch) for the name, with or without tag; empty for all.
        pretrained: Whether to list only models that have published weights.

    Examples:
        >>> cassle_zoo.list_models("resnet18_*", pretrained=True)
        ['resnet18_cassle_simclr.emoji64', 'resnet18_simclr.emoji64']
    """
    names = [name for name, spec in MODEL_SPECS.items() if spec.released or not pretrained]
    if pattern:
        patterns = [pattern] if "." in pattern else [pattern, f"{pattern}.*"]
        names = [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]
    return sorted(names)


def model_info(name: str, *, cache_dir: str | Path | None = None) -> ModelSpec:
    """Return what is known about a model, without importing torch.

    Args:
        name: As for :func:`create_model`, but none of timm. From a Hub repository, only config.json
            is downloaded.
        cache_dir: The Hub client's cache; by default the one in `HF_HOME`.

    Returns:
        The facts. If the registry does not pin the model's files, `sha256` holds the hashes of
        those in the folder or in the cache.

    Raises:
        UnknownNameError: If there is no such model or tag.
        WeightsUnavailableError: As for :func:`create_model`.
        ModelFolderError: If the folder or repository does not hold a model.

    Examples:
        >>> info = cassle_zoo.model_info("resnet18_cassle_simclr")
        >>> info.full_name, info.num_features, info.input_size
        ('resnet18_cassle_simclr.emoji64', 512, (3, 64, 64))
    """
    if (spec := registered(name)) is not None:
        return spec
    files = resolve(name, [], cache_dir=cache_dir)
    names = (MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE)
    present = [name for name in names if (files.folder / name).is_file()]
    return replace(files.spec, sha256={name: files.sha256(name) for name in present})
