"""Options of `cassle-zoo train` for the further augmentations: `--augment.NAME.FIELD`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from cassle_zoo.augmentation.augment import AugmentConfig, check_names
from cassle_zoo.augmentation.registry import augmentations, find_augmentation

_PREFIX = "--augment."


def with_augmentations(arguments: type, augment: AugmentConfig, argv: Sequence[str]) -> Any:
    """Extend a command's dataclass of arguments with the settings of every augmentation.

    Args:
        arguments: The dataclass; gets a field `further`.
        augment: Preset values.
        argv: The command line.

    Raises:
        UnknownNameError: If the command line has settings of an augmentation that does not exist.
        ConfigError: If an augmentation is incomplete.
    """
    words = [word for word in argv if word.startswith(_PREFIX)]
    for name in (word.removeprefix(_PREFIX).split("=")[0] for word in words):
        if "." in name:
            find_augmentation(name.split(".")[0].replace("-", "_"))
    known = augmentations()
    check_names(known.values())
    presets = {one.name: one for one in augment.extra}
    fields = [
        (name, cls, dataclasses.field(default=presets.get(name, cls())))
        for name, cls in known.items()
    ]
    further: Any = dataclasses.make_dataclass("Further", fields, frozen=True, kw_only=True)
    further.__doc__ = "Further augmentations."
    field = dataclasses.field(default_factory=further)
    return dataclasses.make_dataclass(
        arguments.__name__,
        [("further", Annotated[further, tyro.conf.arg(name="augment")], field)],
        bases=(arguments,),
        namespace={"__doc__": arguments.__doc__},
        frozen=True,
        kw_only=True,
    )


def merged(augment: AugmentConfig, arguments: Any) -> AugmentConfig:
    """Return `augment` with the augmentations that the parsed arguments turn on in any view."""
    further = arguments.further
    every = [getattr(further, field.name) for field in dataclasses.fields(further)]
    named = arguments.config.views.named
    extra = tuple(one for one in every if one.p > 0 or one.name in named)
    return dataclasses.replace(augment, extra=extra)
