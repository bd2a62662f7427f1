"""The models in timm's terms: their entry points in timm's registry, and their config.json.

The entry points call timm's own builders. They only add where the weights come from, and check that
these are the published ones and that all of them are loaded. timm is not imported with this module,
because importing timm may be what triggered the registration.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.records import FORMAT_VERSION
from cassle_zoo.specs import MODEL_SPECS, PAPER_ID, ModelSpec, model_tags, resolve_spec
from cassle_zoo.store.folder import MODEL_FILE, bundled_folder
from cassle_zoo.store.model_files import is_cached_file, resolve

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import Tensor, nn

    from cassle_zoo.projector import ProjectorConfig

default_cfgs: dict[str, Any] = {}  # where timm's register_model looks for a module's configurations


def register_models() -> None:
    """Register every model of the zoo with timm, unless it is registered already."""
    from timm.models import generate_default_cfgs, is_model, model_entrypoint, register_model

    default_cfgs.update(
        generate_default_cfgs({name: _with_weights(spec) for name, spec in MODEL_SPECS.items()})
    )
    for name in dict.fromkeys(spec.name for spec in MODEL_SPECS.values()):
        # timm would make the first tag with weights the default; ours is the first tag.
        default_cfgs[name].tags.remove(model_tags(name)[0])
        default_cfgs[name].tags.appendleft(model_tags(name)[0])
        if is_model(name) and model_entrypoint(name).__module__ == __name__:
            continue
        globals()[name] = _entrypoint(name)
        register_model(globals()[name])


def timm_cfg(spec: ModelSpec) -> dict[str, Any]:
    """Return timm's pretrained configuration of a model, without the location of its weights."""
    from timm.models import get_pretrained_cfg_value

    # Given first_conv, timm adapts weights for 3 channels, but drops those for other numbers that
    # it cannot adapt.
    first_conv = get_pretrained_cfg_value(spec.timm_arch, "first_conv")
    return {
        "num_classes": 0,
        "input_size": spec.input_size,
        "interpolation": spec.interpolation,
        "crop_pct": spec.crop_pct,
        "crop_mode": "center",
        "pool_size": pool_size(spec.timm_arch, spec.input_size),
        "mean": spec.mean,
        "std": spec.std,
        "first_conv": first_conv if spec.input_size[0] == 3 else None,
        "classifier": get_pretrained_cfg_value(spec.timm_arch, "classifier"),
        "fixed_input_size": bool(get_pretrained_cfg_value(spec.timm_arch, "fixed_input_size")),
        "license": spec.license,
        "paper_ids": PAPER_ID,
    }


def pool_size(timm_arch: str, input_size: Sequence[int]) -> tuple[int, int] | None:
    """Return the size of the last feature map; timm pools larger ones at test time in two steps.

    Args:
        timm_arch: Name of the timm model.
        input_size: (channels, height, width) in pixels.

    Returns:
        (height, width); `None` for a network without such a map, such as a ViT.
    """
    from timm.models import get_pretrained_cfg_value

    usual = get_pretrained_cfg_value(timm_arch, "pool_size")
    size = get_pretrained_cfg_value(timm_arch, "input_size")
    if usual is None or size is None:
        return None
    height, width = (
        max(1, math.ceil(own * pooled / side))
        for own, pooled, side in zip(input_size[1:], usual, size[1:], strict=True)
    )
    return height, width


def make_config(
    spec: ModelSpec,
    backbone: "nn.Module",
    *,
    projector: "ProjectorConfig | None",
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the content of a model folder's config.json.

    Args:
        spec: Names, width of the features, preprocessing and `model_args`; `sha256` is not used.
        backbone: The timm model that the weights fit.
        projector: Configuration of the projector, if there is one.
        training: How the weights were made, as JSON types: `recipe`, `command`, `code_version`,
            `config`, ...

    Returns:
        timm's configuration, with ours under the key `cassle_zoo`.
    """
    widths = {} if projector is None else projector.layout.widths
    cfg = {k: list(v) if isinstance(v, tuple) else v for k, v in timm_cfg(spec).items()}
    return {
        "architecture": spec.timm_arch,
        "num_classes": 0,
        "num_features": spec.num_features,
        "global_pool": pool_name(backbone),
        **({"model_args": dict(spec.model_args)} if spec.model_args else {}),
        "pretrained_cfg": {"tag": spec.tag, **cfg},
        "cassle_zoo": {
            "format_version": FORMAT_VERSION,
            "name": spec.full_name,
            "method": spec.method,
            "descriptors": [{"name": name, "width": width} for name, width in widths.items()],
            "projector": None if projector is None else projector.to_dict(),
            "training": dict(training),
        },
    }


def pool_name(backbone: "nn.Module") -> str:
    """Return timm's name for the pooling of a backbone; empty if there is none."""
    pool = getattr(backbone, "global_pool", None)
    return pool if isinstance(pool, str) else str(getattr(pool, "pool_type", ""))


def _with_weights(spec: ModelSpec) -> dict[str, Any]:
    """Return timm's configuration with the location of released weights, so timm lists them."""
    cfg = timm_cfg(spec)
    if not spec.released:
        return cfg
    if bundled_folder(spec).is_dir() or spec.hub_repo is None:
        return {"file": str(bundled_folder(spec) / MODEL_FILE), **cfg}
    return {"hf_hub_id": f"{spec.hub_repo}@{spec.hub_revision}", **cfg}


def _entrypoint(name: str) -> Callable[..., "nn.Module"]:
    def build(pretrained: bool = False, **kwargs: Any) -> "nn.Module":
        return _build(name, pretrained, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Build `{name}`; the arguments are those of timm's builder."
    return build


def _build(
    name: str,
    pretrained: bool,
    *,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **kwargs: Any,
) -> "nn.Module":
    from timm.models import model_entrypoint, resolve_pretrained_cfg

    from cassle_zoo.accel.initialisation import skip_random_weights
    from cassle_zoo.zoo.vit import MOCOV3_VITS, build_registered_vit

    if isinstance(pretrained_cfg, str) and pretrained_cfg:
        resolve_spec(f"{name}.{pretrained_cfg}")  # our error lists the existing tags
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    if kwargs.get("features_only"):
        kwargs["num_classes"] = 0  # feature maps need no head, and a head would need weights
    if pretrained and not _names_other_weights(cfg, name):
        spec = resolve_spec(f"{name}.{cfg.tag}" if cfg.tag else name)
        files = resolve(spec.full_name, [MODEL_FILE], cache_dir=kwargs.get("cache_dir"))
        cfg = replace(cfg, file=str(files.folder / MODEL_FILE), hf_hub_id=None)
    known = resolve_spec(name)
    build: Callable[..., nn.Module] = model_entrypoint(known.timm_arch)
    if known.arch in MOCOV3_VITS:
        build = functools.partial(build_registered_vit, name, known.arch)
    complete = pretrained and not kwargs.get("num_classes")
    with ExitStack() as construction:
        construction.enter_context(skip_random_weights(complete))
        if pretrained:
            is_part = bool(kwargs.get("features_only"))
            kwargs["pretrained_filter_fn"] = functools.partial(_checked, construction, is_part)
        return build(pretrained=pretrained, pretrained_cfg=cfg, **kwargs)


def _names_other_weights(cfg: "PretrainedCfg", name: str) -> bool:
    """Whether the caller pointed timm at weights of their own, which have no known hash."""
    if cfg.state_dict or cfg.url or cfg.source:
        return True
    files: set[str | None] = {None}
    repositories: set[str | None] = {None}
    if registered := default_cfgs[name].cfgs.get(cfg.tag):
        files.add(registered.file)
        repositories.add(registered.hf_hub_id)
    if spec := MODEL_SPECS.get(f"{name}.{cfg.tag}"):
        files.add(str(bundled_folder(spec) / MODEL_FILE))
        if spec.hub_repo and cfg.file and is_cached_file(spec, cfg.file):
            files.add(cfg.file)
    return cfg.file not in files or cfg.hf_hub_id not in repositories


def _checked(
    construction: ExitStack, is_part: bool, state: dict[str, "Tensor"], model: "nn.Module"
) -> dict[str, "Tensor"]:
    """Refuse an incomplete file; timm itself is not strict once the number of classes differs.

    timm calls this once the network exists, so `construction` ends here and does not slow loading.
    Weights that timm will adapt to other channels or sizes become float32 first.

    Raises:
        ModelFolderError: If a weight of the backbone is missing or unexpected, or the weights have
            a classifier that their configuration does not mention and the model has another.
    """
    from cassle_zoo.store.tensors import check_backbone_keys, layer_prefixes

    construction.close()
    own, cfg = model.state_dict(), cast(Any, model.pretrained_cfg)
    heads = layer_prefixes(cfg, "classifier")
    backbone = {k: v for k, v in state.items() if not k.startswith(heads)}
    check_backbone_keys(backbone, model, is_part=is_part)
    if not cfg["num_classes"]:
        if len(backbone) < len(state) and not is_part and model.num_classes:
            classes = next(len(v) for k, v in state.items() if k.startswith(heads))
            raise ModelFolderError(
                f"The weights have a classifier of {classes} classes, but their configuration says "
                "0, so it would be replaced by a random one; add 'num_classes': "
                f"{classes} to pretrained_cfg_overlay."
            )
        state = backbone
    return {
        k: v.float() if k in own and v.is_floating_point() and v.shape != own[k].shape else v
        for k, v in state.items()
    }
