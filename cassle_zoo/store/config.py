"""The format of a model folder's config.json: its version, and what it may say. Needs no torch."""

from typing import Any

from cassle_zoo import records
from cassle_zoo.augmentation.descriptors import DESCRIPTOR_WIDTHS

FORMAT_VERSION = records.FORMAT_VERSION
"""Of the part under the key `cassle_zoo`; others are refused by :func:`_check_own`."""

LARGEST_SIDE = 2048
"""Largest height and width of images in pixels: what is larger is a mistake or an attack."""

SMALLEST_STD = 1e-6
"""Smallest standard deviation of pixels within [0, 1]; dividing by less overflows."""

MOST_LAYERS = 1000
"""Most layers in a stage; far more take minutes to build, and then the weights do not fit."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")

# Arguments of timm.create_model that do not describe an architecture.
_LOADING_ARGS = (
    "features_only",
    "out_indices",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
    "exportable",
    "no_jit",
)

# timm fields that say where weights come from; in a model folder they are beside config.json.
_SOURCE_FIELDS = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")


class WrongConfigError(ValueError):
    """What is wrong with a config.json, without the file's name and the fix."""


def check_config(config: dict[str, Any]) -> None:
    """Check the content of a config.json.

    Raises:
        WrongConfigError: If it is malformed, of another format version, or contradicts itself.
    """
    architecture = _get(config, "architecture", str)
    if not architecture.replace("_", "").isalnum():
        raise WrongConfigError(f"architecture {architecture!r} is not the name of a timm model.")
    if _get(config, "num_classes", int) != 0:
        raise WrongConfigError(f"num_classes is {config['num_classes']}, but backbones have 0.")
    if not _is_count(config.get("num_features")):
        raise WrongConfigError(
            f"num_features is {config.get('num_features')!r}, but must be a positive whole number."
        )
    if not isinstance(config.get("global_pool", ""), str):
        raise WrongConfigError(
            f"global_pool must be given as str, found {config['global_pool']!r}."
        )
    _check_preprocessing(_get(config, "pretrained_cfg", dict))
    _check_model_args(config.get("model_args", {}))
    _check_own(_get(config, "cassle_zoo", dict))


def _check_preprocessing(cfg: dict[str, Any]) -> None:
    outside = sorted(set(cfg) & set(_SOURCE_FIELDS))
    if outside:
        raise WrongConfigError(f"pretrained_cfg points outside the folder with {_join(outside)}.")
    for key, allows, what in (
        ("input_size", _is_count, "positive whole numbers"),
        ("mean", _is_number, "numbers"),
        (
            "std",
            lambda v: _is_number(v) and v >= SMALLEST_STD,
            f"numbers of at least {SMALLEST_STD}",
        ),
    ):
        values = _get(cfg, key, list)
        if len(values) != 3 or not all(map(allows, values)):
            raise WrongConfigError(f"pretrained_cfg.{key} must be three {what}, not {values}.")
    if max(cfg["input_size"]) > LARGEST_SIDE:
        raise WrongConfigError(
            f"pretrained_cfg.input_size is {cfg['input_size']}; {LARGEST_SIDE} is the largest."
        )
    crop = cfg.get("crop_pct", 1.0)
    if not _is_number(crop) or not 0 < crop <= 1:
        raise WrongConfigError(f"pretrained_cfg.crop_pct is {crop!r}, but must be within (0, 1].")
    for key, names in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
        if cfg.get(key, names[0]) not in names:
            raise WrongConfigError(
                f"pretrained_cfg.{key} is {cfg[key]!r}, but must be one of {_join(names)}."
            )
    for key in ("first_conv", "classifier"):
        layers = cfg.get(key) or []
        listed = [layers] if isinstance(layers, str) else layers
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise WrongConfigError(f"pretrained_cfg.{key} is {layers!r}, but must name layers.")


def _check_model_args(values: Any) -> None:
    """Check that what timm passes on to its builders does not load another file."""
    if not isinstance(values, dict):
        raise WrongConfigError(f"model_args must be given as dict, found {values!r}.")
    for name in values:
        if name in _LOADING_ARGS or name.startswith("pretrained"):
            raise WrongConfigError(f"model_args sets {name}, which no model folder may.")
        if ("layers" in name or "depth" in name) and _largest(values[name]) > MOST_LAYERS:
            raise WrongConfigError(
                f"model_args sets {name} to {values[name]!r}; {MOST_LAYERS} layers are the most."
            )


def _largest(value: Any) -> float:
    values, largest = [value], 0.0
    while values:
        item = values.pop()
        if isinstance(item, list):
            values += item
        elif isinstance(item, int | float):
            largest = max(largest, item)
    return largest


def _check_own(own: dict[str, Any]) -> None:
    version = _get(own, "format_version", int)
    if version != FORMAT_VERSION:
        fix = "update cassle-zoo" if version > FORMAT_VERSION else "run `cassle-zoo upgrade FOLDER`"
        raise WrongConfigError(
            f"format_version is {version}, but this cassle_zoo reads {FORMAT_VERSION}; {fix}."
        )
    for key, kind in (("name", str), ("method", str), ("training", dict)):
        _get(own, key, kind)
    descriptors = _get(own, "descriptors", list)
    if not all(isinstance(d, dict) and isinstance(d.get("name"), str) for d in descriptors):
        raise WrongConfigError(
            f"descriptors must be a list of names and widths, not {descriptors}."
        )
    widths = {d["name"]: d.get("width") for d in descriptors}
    for name, width in widths.items():
        if DESCRIPTOR_WIDTHS.get(name) != width:
            raise WrongConfigError(
                f"descriptor {name!r} of width {width} is unknown to this cassle_zoo."
            )
    if "projector" not in own:
        raise WrongConfigError("projector is missing; it must be null if the model has none.")
    if own["projector"] is None:
        return
    names = _get(_get(own, "projector", dict), "descriptors", list)
    if names != list(widths) or names != sorted(names):
        raise WrongConfigError(f"descriptors {list(widths)} contradict the projector's {names}.")


def _get(values: Any, key: str, kind: type) -> Any:
    if not isinstance(values, dict) or not isinstance(values.get(key), kind):
        found = values.get(key) if isinstance(values, dict) else values
        raise WrongConfigError(f"{key} must be given as {kind.__name__}, found {found!r}.")
    return values[key]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    # The bound leaves out NaN, infinity, and whole numbers that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _join(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names)
