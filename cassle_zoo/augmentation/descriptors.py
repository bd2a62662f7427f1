"""The augmentation descriptors that make up omega: their names, sizes and order.

Omega of one view is the concatenation, in sorted name order, of the parts chosen from
:data:`DESCRIPTOR_COLUMNS`, which defines the numbers; `augment.describe` computes them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from cassle_zoo.common.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

DESCRIPTOR_COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "blur": ("sigma of the Gaussian blur in pixels; 0 if there was none",),
        "color": (
            "(brightness factor - 1) / range",
            "(contrast factor - 1) / range",
            "(saturation factor - 1) / range",
            "hue shift / range",
        ),
        "color_diff": tuple(
            f"mean {channel} before minus after the colour jitter, of images in [0, 1]"
            for channel in ("red", "green", "blue")
        ),
        "crop": (
            "centre y of the crop, as a fraction of the image's height",
            "centre x, as a fraction of the width; 1 - x if the view was flipped",
            "height, as a fraction of the image's",
            "width, as a fraction of the image's",
        ),
        "flip": ("1 if the view was flipped horizontally, else 0",),
        "grayscale": ("1 if the view was made grey, else 0",),
    }
)
"""Meaning of each number of each descriptor. A colour factor's range is the upper minus the lower
bound of its interval; `color` and `color_diff` are 0 if the jitter was not applied."""

DESCRIPTOR_WIDTHS: Mapping[str, int] = MappingProxyType(
    {name: len(columns) for name, columns in DESCRIPTOR_COLUMNS.items()}
)
"""Number of columns of each descriptor."""

PAPER_DESCRIPTORS: tuple[str, ...] = ("blur", "color", "color_diff", "crop", "grayscale")
"""The paper's main setting: 13 numbers (section 4)."""


@dataclass(frozen=True)
class DescriptorLayout:
    """Which descriptors are in omega, and where.

    Attributes:
        names: Descriptor names; stored sorted, the order of concatenation. May be empty (the
            unconditioned baseline).

    Raises:
        UnknownNameError: If a name is not a descriptor.
        ConfigError: If a name is given twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Sort and check the names."""
        given: Iterable[str] = self.names
        if isinstance(given, str):
            raise ConfigError(f"descriptors must be a sequence of names, not the string {given!r}.")
        names = tuple(sorted(given))
        object.__setattr__(self, "names", names)
        for name in names:
            if name not in DESCRIPTOR_WIDTHS:
                raise unknown_name("descriptor", name, DESCRIPTOR_WIDTHS)
            if names.count(name) > 1:
                raise ConfigError(f"descriptor {name!r} is given {names.count(name)} times.")

    @property
    def width(self) -> int:
        """Length of omega."""
        return sum(DESCRIPTOR_WIDTHS[name] for name in self.names)

    def slices(self) -> dict[str, slice]:
        """Return the columns of each descriptor in omega, in order."""
        columns: dict[str, slice] = {}
        start = 0
        for name in self.names:
            columns[name] = slice(start, start + DESCRIPTOR_WIDTHS[name])
            start += DESCRIPTOR_WIDTHS[name]
        return columns

    def select(self, descriptors: "Tensor") -> "Tensor":
        """Select this layout's columns (B, width) of descriptors (B, 14) of `ALL_DESCRIPTORS`."""
        columns = ALL_DESCRIPTORS.slices()
        chosen = [i for n in self.names for i in range(columns[n].start, columns[n].stop)]
        return descriptors[:, chosen]


ALL_DESCRIPTORS = DescriptorLayout(tuple(DESCRIPTOR_WIDTHS))
"""All descriptors: 14 numbers."""
