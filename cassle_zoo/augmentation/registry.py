"""All further augmentations: ours, registered ones, and those of installed packages."""

import functools
from collections.abc import Mapping
from importlib.metadata import entry_points

from cassle_zoo.augmentation import further  # noqa: F401 - it registers them
from cassle_zoo.augmentation.base import Augmentation, register_augmentation, registered
from cassle_zoo.common.errors import ConfigError, UnknownNameError, unknown_name

ENTRY_POINTS = "cassle_zoo.augmentations"
"""Entry-point group in which a package names its augmentations (docs/extending.md)."""

HOW_TO_REGISTER = (
    "An augmentation of another package must be registered: import its module before, or install "
    f"a package that names it in the entry points {ENTRY_POINTS!r} (docs/extending.md)."
)


def augmentations() -> Mapping[str, type[Augmentation]]:
    """Return all augmentations besides the paper's, by name, sorted.

    Raises:
        ConfigError: If an installed package names one that cannot be loaded.
    """
    _load_installed()
    return dict(sorted(registered().items()))


def find_augmentation(name: str) -> type[Augmentation]:
    """Return an augmentation by its name.

    Raises:
        UnknownNameError: If there is none.
        ConfigError: See :func:`augmentations`.
    """
    known = augmentations()
    if name not in known:
        raise UnknownNameError(f"{unknown_name('augmentation', name, known)} {HOW_TO_REGISTER}")
    return known[name]


@functools.cache
def _load_installed() -> None:
    for entry in entry_points(group=ENTRY_POINTS):
        package = entry.dist.name if entry.dist is not None else "a package"
        try:
            register_augmentation(entry.load())
        except Exception as error:  # other people's code may raise anything
            raise ConfigError(
                f"the augmentation {entry.name!r} of {package} ({entry.value}) cannot be loaded: "
                f"{type(error).__name__}: {str(error).rstrip('.')}. Update or remove that package."
            ) from error
