"""The format of a model folder's config.json: its version, and what it may say. Needs no torch."""

from collections.abc import Callable, Mapping
from typing import Any

from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS
from cassle_zoo.common.errors import ConfigError

_LARGEST_SIDE = 2048  # of images in pixels: anything larger is a mistake or an attack
_SMALLEST_STD = 1e-6  # of pixels in [0, 1]; dividing by less overflows
_MOST_LAYERS = 1000  # in a stage; far more take minutes to build, and then the weights do not fit
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_CROP_MODES = ("center", "squash", "border")

# Arguments of timm.create_model that do not describe an architecture.
_LOADING_ARGS = (
    "features_only",
    "out_indices",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
    "exportable",
    "no_jit",
    "num_classes",
)

# timm fields that say where weights come from; those of a model folder are beside its config.json.
SOURCE_FIELDS = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source")


def check_config(config: Mapping[str, Any]) -> None:
    """Check the content of a config.json.

    Raises:
        ConfigError: If it is malformed, of another format version, or contradicts itself; the
            message has neither the file's name nor the fix.
    """
    for key, (allows, words) in _RULES.items():
        parent, _, name = key.rpartition(".")
        value = (config[parent] if parent else config).get(name, _DEFAULTS.get(key))
        if not allows(value):
            raise ConfigError(f"{key} must be {words}, not {value!r}.")
    channels = config["pretrained_cfg"]["input_size"][0]
    count = "three" if channels == 3 else channels
    for key, (allows, words) in _PER_CHANNEL.items():
        if not _is_list(value := config["pretrained_cfg"].get(key), allows, channels):
            raise ConfigError(f"pretrained_cfg.{key} must be {count} {words}, not {value!r}.")
    if outside := sorted(set(config["pretrained_cfg"]) & set(SOURCE_FIELDS)):
        raise ConfigError(f"pretrained_cfg points outside the folder with {', '.join(outside)}.")
    check_model_args(config.get("model_args", {}))
    own = config["cassle_zoo"]
    widths = {d["name"]: d.get("width") for d in own["descriptors"]}
    known = {**_described_widths(own["projector"]), **ALL_DESCRIPTORS.widths}
    for name, width in widths.items():
        if known.get(name) != width:
            raise ConfigError(
                f"descriptor {name!r} of width {width} is unknown to this cassle_zoo, and "
                "cassle_zoo.projector.columns does not say what its numbers mean."
            )
    if own["projector"] is not None:
        names = own["projector"].get("descriptors")
        if names != sorted(widths) or names != list(widths):
            raise ConfigError(f"descriptors {list(widths)} contradict the projector's {names}.")


def check_model_args(args: Mapping[str, Any]) -> None:
    """Check that a file's arguments of a timm model only describe an architecture.

    Raises:
        ConfigError: If one loads something, or asks for too many layers.
    """
    for name, value in args.items():
        if name in _LOADING_ARGS or name.startswith("pretrained"):
            raise ConfigError(f"model_args must not set {name}.")
        if ("layers" in name or "depth" in name) and _largest(value) > _MOST_LAYERS:
            raise ConfigError(f"model_args sets {name} to {value!r}; the limit is {_MOST_LAYERS}.")


def _described_widths(projector: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the widths of the descriptors that only the projector's configuration describes."""
    columns = {} if projector is None else projector.get("columns", {})
    if not isinstance(columns, dict) or not all(_is_list(v, _is_text) for v in columns.values()):
        raise ConfigError(f"cassle_zoo.projector.columns must be lists of texts, not {columns!r}.")
    return {name: len(texts) for name, texts in columns.items()}


def _largest(value: Any) -> float:
    values, largest = [value], 0.0
    while values:
        item = values.pop()
        if isinstance(item, list):
            values += item
        elif isinstance(item, int | float):
            largest = max(largest, item)
    return largest


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # The bound leaves out NaN, infinity, and whole numbers that no float can hold.
    return (_is_whole(value) or isinstance(value, float)) and abs(value) < 1e9


def _is_list(value: Any, allows: Callable[[Any], bool], length: int | None = None) -> bool:
    return isinstance(value, list) and length in (None, len(value)) and all(map(allows, value))


def _names_layers(value: Any) -> bool:
    return value is None or _is_text(value) or _is_list(value, _is_text)


def _is_training(value: Any) -> bool:
    if not _is_object(value) or not all(
        value.get(key) is None or _is_object(value[key]) for key in ("config", "images", "init")
    ):
        return False
    return _is_object((value.get("config") or {}).get("data", {}))


def _is_descriptor(value: Any) -> bool:
    return _is_object(value) and _is_text(value.get("name"))


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "architecture": (lambda v: _is_text(v) and v.replace("_", "").isalnum(), "a timm model's name"),
    "num_classes": (lambda v: _is_whole(v) and v == 0, "0"),
    "num_features": (lambda v: _is_whole(v) and v > 0, "a positive whole number"),
    "global_pool": (_is_text, "a text"),
    "model_args": (_is_object, "an object"),
    "pretrained_cfg": (_is_object, "an object"),
    "pretrained_cfg.input_size": (
        lambda v: _is_list(v, lambda n: _is_whole(n) and 0 < n <= _LARGEST_SIDE, 3),
        f"three positive whole numbers up to {_LARGEST_SIDE}",
    ),
    "pretrained_cfg.crop_pct": (lambda v: _is_number(v) and 0 < v <= 1, "within (0, 1]"),
    "pretrained_cfg.interpolation": (
        lambda v: v in _INTERPOLATIONS,
        f"one of {', '.join(_INTERPOLATIONS)}",
    ),
    "pretrained_cfg.crop_mode": (lambda v: v in _CROP_MODES, f"one of {', '.join(_CROP_MODES)}"),
    "pretrained_cfg.pool_size": (
        lambda v: v is None or _is_list(v, lambda n: _is_whole(n) and n > 0, 2),
        "two positive whole numbers, or null",
    ),
    "pretrained_cfg.first_conv": (_names_layers, "names of layers"),
    "pretrained_cfg.classifier": (_names_layers, "names of layers"),
    "cassle_zoo": (_is_object, "an object"),
    "cassle_zoo.format_version": (_is_whole, "a whole number"),
    "cassle_zoo.name": (_is_text, "a text"),
    "cassle_zoo.method": (_is_text, "a text"),
    "cassle_zoo.training": (
        _is_training,
        "an object, and so its config, config.data, images and init",
    ),
    "cassle_zoo.descriptors": (
        lambda v: _is_list(v, _is_descriptor),
        "a list of names and widths",
    ),
    "cassle_zoo.projector": (
        lambda v: v is None or _is_object(v),
        "an object, or null if the model has none",
    ),
}
"""What is allowed for each key, and the same in words; an object precedes its keys."""

_PER_CHANNEL: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "mean": (_is_number, "numbers"),
    "std": (
        lambda v: _is_number(v) and v >= _SMALLEST_STD,
        f"numbers of at least {_SMALLEST_STD}",
    ),
}
"""What is allowed for each of the numbers that `pretrained_cfg` has per channel."""

_DEFAULTS: Mapping[str, Any] = {
    "global_pool": "",
    "model_args": {},
    "pretrained_cfg.crop_pct": 1,
    "pretrained_cfg.interpolation": "bicubic",
    "pretrained_cfg.crop_mode": "center",
    "cassle_zoo.projector": "missing",
}
