"""Claims in a model's name, `{arch}_cassle_{method}.{tag}`, and whether they are true.

Any name is allowed, but one that begins with an architecture, ends with a method, contains
`cassle`, or has the tag of a known dataset makes a claim, which must be true. Also here: the timm
model of an architecture's name, and names without the user's folders.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from cassle_zoo.common.errors import unknown_name
from cassle_zoo.specs import BACKBONES, DATASETS, MODEL_SPECS, PROJECTORS, is_zoo_name
from cassle_zoo.store.model_files import HUB_PREFIX, LOCAL_PREFIX
from cassle_zoo.zoo.timm_names import TIMM_PREFIX


@dataclass(frozen=True, kw_only=True)
class NameParts:
    """What a name says; `None` where it says nothing.

    Attributes:
        arch: Architecture: a short name of `BACKBONES`, or a timm model.
        conditioned: Whether the projector was conditioned (`cassle`).
        method: SSL method.
        tag: Tag; empty if there is none.
    """

    arch: str | None
    conditioned: bool | None
    method: str | None
    tag: str


def parse_name(name: str) -> NameParts:
    """Read a model's name."""
    base, _, tag = name.partition(".")
    methods = [method for method in PROJECTORS if base.endswith(f"_{method}")]
    method = max(methods, key=len, default=None)
    words = base.split("_")
    beginnings = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    arch = next((beginning for beginning in beginnings if is_arch(beginning)), None)
    conditioned: bool | None = None
    if "cassle" in words:
        conditioned = True
    elif arch is not None and base == f"{arch}_{method}":
        conditioned = False
    return NameParts(arch=arch, conditioned=conditioned, method=method, tag=tag)


def is_arch(name: str) -> bool:
    """Return whether a name is a short name of `BACKBONES`, or a timm model without weights."""
    if name in BACKBONES:
        return True
    return "." not in name and not is_zoo_name(name) and timm.is_model(name)


def contradictions(
    name: str,
    *,
    timm_arch: str,
    method: str,
    conditioned: bool | None,
    reader: str | None = None,
) -> list[str]:
    """Return the false claims of a name, as sentences without a full stop.

    Args:
        name: Full name of a model.
        timm_arch: Its timm model.
        method: Its SSL method.
        conditioned: Whether its projector was conditioned; `None` if that is not known.
        reader: How the images were read, as the training setting `data.dataset` names it; `None` if
            that is not known.
    """
    said = parse_name(name)
    found = []
    if said.arch is not None:
        known = BACKBONES.get(said.arch)
        expected = said.arch if known is None else known.timm_arch
        # timm's prefix tf_ marks padding as in TensorFlow, not another architecture.
        if expected != timm_arch.removeprefix("tf_") and expected != timm_arch:
            found.append(f"the name {name!r} says {said.arch}, but the architecture is {timm_arch}")
    if said.method not in (None, method):
        found.append(f"the name {name!r} says {said.method}, but the method is {method}")
    if None not in (said.conditioned, conditioned) and said.conditioned != conditioned:
        words = ("plain", "conditioned") if said.conditioned is False else ("cassle", "plain")
        found.append(f"the name {name!r} says {words[0]}, but the projector is {words[1]}")
    data = DATASETS.get(said.tag)
    if data is not None and reader is not None:
        readers = {other.reader for other in DATASETS.values()} - {""}
        other = reader in readers if data.reader == "" else reader != data.reader
        if other:
            found.append(
                f"the tag {said.tag!r} says {data.title}, but the images are "
                f"{reader or 'a folder or archive'}"
            )
    return found


def dataset_of(reader: str) -> str | None:
    """Return the dataset that a value of `data.dataset` stands for, if it is one of the zoo's."""
    return next((tag for tag, data in DATASETS.items() if data.reader == reader != ""), None)


def resolve_arch(arch: str, size: int, channels: int = 3) -> tuple[str, dict[str, Any]]:
    """Return the timm model that an architecture's name stands for, and its builder's arguments.

    Args:
        arch: A short name of :data:`cassle_zoo.specs.BACKBONES` (`vit_small` is MoCo-v3's, with 12
            heads), a model of the registry, or any timm model.
        size: Height and width of the views in pixels.
        channels: Their number of channels.

    Raises:
        UnknownNameError: If there is no such architecture.
    """
    registered = {spec.name: spec for spec in MODEL_SPECS.values()}
    known = registered.get(arch) or BACKBONES.get(arch)
    timm_arch = arch if known is None else known.timm_arch
    if not timm.is_model(timm_arch):
        names = [*BACKBONES, *timm.list_models()]
        raise unknown_name("arch", arch, names, listed_by="timm.list_models()")
    args: dict[str, Any] = {} if known is None else dict(known.model_args)
    cfg = timm.get_pretrained_cfg(timm_arch)
    # Some networks, ViTs above all, are built for one size of input.
    if cfg is not None and cfg.fixed_input_size and cfg.input_size[-1] != size:
        args["img_size"] = size
    if channels != 3:
        args["in_chans"] = channels
    return timm_arch, args


def short_arch(arch: str) -> str:
    """Return the short name of an architecture that is given by a model's name; else `arch`."""
    return next((spec.arch for spec in MODEL_SPECS.values() if spec.name == arch), arch)


def public_name(name: str) -> str:
    """Return the name of a model or of starting weights without the user's folders."""
    if not name or name.startswith((HUB_PREFIX, TIMM_PREFIX)) or is_zoo_name(name):
        return name
    prefix = LOCAL_PREFIX if name.startswith(LOCAL_PREFIX) else ""
    return prefix + last_part(name.removeprefix(prefix))


def last_part(path: str) -> str:
    """Return the own name of a file or folder, also of `.`; nothing for an empty path."""
    return Path(os.path.abspath(path)).name if path else ""


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training, as in its config.json, without the user's folders."""
    data = settings.get("data", {})
    public = {**settings, "data": {**data, "root": Path(str(data.get("root", ""))).name}}
    return public | ({"init": public_name(public["init"])} if "init" in public else {})
