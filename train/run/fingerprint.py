"""Fingerprints of a run, settings and images: the same when continued, and in all processes."""

import dataclasses
import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import read_json, write_json
from cassle_zoo.records import RENAMED_SETTINGS, SETTINGS_FILE, START, StartingWeights
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.distributed import process_group
from cassle_zoo.train.sources import Source
from cassle_zoo.zoo.names import contradictions, resolve_arch

_IMAGES = "images"
_DECODE = "data.decode"
_DECODED_BEFORE = "exact"  # by runs older than the setting
# What may differ from machine to machine.
_PER_MACHINE = ("data.root", "data.workers", "init", "run.device", "run.threads")

Fingerprint = dict[str, Any]


def images_fingerprint(dataset: Any) -> Fingerprint:
    """Return a fingerprint of a dataset, wherever it is stored.

    Args:
        dataset: From `data.open_dataset`.

    Returns:
        `count`, and `names`: SHA-256 of the files' names in their order, without the folder that
        holds them all; `None` if the dataset has no names.
    """
    # The indices of a stream's images are not 0, 1, 2, ...
    if not hasattr(dataset, "filename") or isinstance(dataset, IterableDataset):
        return {"count": len(dataset), "names": None}
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        digest.update(dataset.filename(index).encode("utf-8", "surrogateescape") + b"\0")
    return {"count": len(dataset), "names": digest.hexdigest()}


def write_settings(
    config: TrainConfig, images: Fingerprint, out: Path, start: StartingWeights | None = None
) -> None:
    """Record the settings, images and starting weights of the run in `out`."""
    values = {**config.to_dict(), _IMAGES: images}
    if start is not None:
        values[START] = dataclasses.asdict(start)
    write_json(out / SETTINGS_FILE, values, sync=True)


def check_same_run(
    config: TrainConfig, out: Path, images: Fingerprint | None = None, source: Source | None = None
) -> TrainConfig:
    """Check that `out` does not hold a run with other settings, `images` or starting weights.

    A name that is not true, which older versions allowed, may differ. So may settings that do not
    change the result: `data.root`, `data.workers` (but not of a stream, whose order depends on it),
    `data.max_bad_fraction`, and all of `run` but `seed`, `precision` and `channels_last`. Starting
    weights may have another name or place, but not another content, which is compared if `source`
    is given. A run without a record of its images predates such records.

    Returns:
        The settings; a `data.decode` of None becomes what the run began with, `fast` if it is new.

    Raises:
        ConfigError: Naming each setting that differs, with both values, or how the images differ;
            or if an older version began the run and gave settings other names.
    """
    path = out / SETTINGS_FILE
    if not path.exists():
        return _with_decoding(config, "fast")
    # A setting that did not exist when the run began had its present default.
    defaults = flat_settings(
        TrainConfig(name="any", arch="resnet18", method=type(config.method)()).to_dict()
    )
    defaults[_DECODE] = _DECODED_BEFORE
    stored = _read_settings(path)
    before = stored.pop(_IMAGES, None)
    began = stored.pop(START, None)
    stored = flat_settings(stored)
    if stored.keys() & RENAMED_SETTINGS.keys():
        raise ConfigError(
            f"{str(out)!r} holds a run of cassle-zoo 0.1.0, whose settings have other names; "
            f"`cassle-zoo upgrade {shlex.quote(str(out))}` renames them, then it continues. Or use "
            "another --out."
        )
    old, new = (
        {name: value for name, value in settings.items() if not _is_free(name, config)}
        for settings in (defaults | stored, flat_settings(config.to_dict()))
    )
    if source is not None or not config.init:  # else the weights have not been read
        old["init.sha256"] = began.get("sha256") if isinstance(began, dict) else None
        new["init.sha256"] = None if source is None else source.record.sha256
    if _is_untrue(stored):
        old["name"] = new["name"]
    if differing := _differing(old, new, "there", "now"):
        raise ConfigError(
            f"{str(out)!r} holds a run with other settings ({'; '.join(differing)}); "
            "use another --out, or the same settings to continue it."
        )
    if images is not None and before not in (None, images):
        raise ConfigError(
            f"{str(out)!r} holds a run on other images "
            f"({_images_differ(before, images, 'there', 'now')}); point --data at those "
            "images to continue it (their folder may have moved), or use another --out to train "
            "anew on these."
        )
    return _with_decoding(config, (defaults | stored)[_DECODE])


def check_same_everywhere(
    config: TrainConfig, images: Fingerprint, source: Source | None = None
) -> None:
    """Check that all processes were started with the same settings and see the same images.

    Raises:
        ConfigError: Naming a process that differs from process 0, and every difference.
    """
    settings = {k: v for k, v in flat_settings(config.to_dict()).items() if k not in _PER_MACHINE}
    settings["init.sha256"] = None if source is None else source.record.sha256
    (expected, there), *others = process_group.all_gather_object((settings, images))
    for number, (found, seen) in enumerate(others, start=1):
        places = ("in process 0", f"in {number}")
        differing = _differing(expected, found, *places)
        if seen != there:
            differing.append(f"images: {_images_differ(there, seen, *places)}")
        if differing:
            raise ConfigError(
                f"process {number} differs from process 0 ({'; '.join(differing)}); start all "
                "with the same command, and with the same images on each machine."
            )


def _with_decoding(config: TrainConfig, decode: Any) -> TrainConfig:
    if config.data.decode is not None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, decode=decode))


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise ConfigError(
            f"{str(path)!r} holds no settings ({error}); use another --out."
        ) from None


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name, as the command line has them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], where: str, other: str) -> list[str]:
    return [
        f"{name}: {old.get(name)!r} {where}, {new.get(name)!r} {other}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _images_differ(old: Any, new: Fingerprint, where: str, other: str) -> str:
    count = old.get("count") if isinstance(old, dict) else None
    if count != new["count"]:
        return f"{count} {where}, {new['count']} {other}"
    return f"{count} {where} and {other}, but with other names, or in another order"


def _is_untrue(stored: Mapping[str, Any]) -> bool:
    """Return whether a stored run's name contradicts its settings, as older versions allowed."""
    name, arch, size = (stored.get(key) for key in ("name", "arch", "augment.size"))
    if not (isinstance(name, str) and isinstance(arch, str) and isinstance(size, int)):
        return False
    wrong = contradictions(
        name,
        timm_arch=resolve_arch(arch, size)[0],
        method=str(stored.get("method.name")),
        conditioned=stored.get("conditioning.mode") != "none",
        reader=stored.get("data.dataset"),
    )
    return bool(wrong)


def _is_free(name: str, config: TrainConfig) -> bool:
    if name.startswith("run."):
        return name not in ("run.seed", "run.precision", "run.channels_last")
    if name == "data.workers":  # among which the shards of a stream are divided
        return not config.data.is_stream
    if name == _DECODE:
        return config.data.decode is None
    return name in ("data.root", "data.max_bad_fraction", "init")
