"""The augmentation descriptors that make up omega: their names, sizes and order.

The omega of a view concatenates the chosen descriptors in sorted name order.
:data:`DESCRIPTOR_COLUMNS` and the further augmentations (`base.Augmentation`) say what each number
means; `augment.describe` computes them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from cassle_zoo.common.errors import ConfigError, UnknownNameError, unknown_name

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
"""Meaning of each number of the paper's descriptors. A colour factor's range is the upper minus the
lower bound of its interval; `color` and `color_diff` are 0 if the jitter was not applied."""

PAPER_DESCRIPTORS: tuple[str, ...] = ("blur", "color", "color_diff", "crop", "grayscale")
"""The paper's main setting: 13 numbers (section 4)."""


@dataclass(frozen=True)
class DescriptorLayout:
    """Which descriptors are in omega, and where.

    Attributes:
        names: Descriptor names; stored sorted, the order of concatenation. May be empty (the
            unconditioned baseline).
        columns: For descriptors that are not in :data:`DESCRIPTOR_COLUMNS`: what each of their
            numbers means, by descriptor name. Taken from the augmentation of that name by default;
            a model's configuration has them, so that its layout is known without the augmentation.

    Raises:
        UnknownNameError: If a name is not a descriptor.
        ConfigError: If a name is given twice, or `columns` has a descriptor that is not in `names`
            or is in :data:`DESCRIPTOR_COLUMNS`, or a text in place of a tuple of texts.

    Examples:
        >>> layout = cassle_zoo.DescriptorLayout(("crop", "blur"))
        >>> layout.width, layout.slices()
        (5, {'blur': slice(0, 1, None), 'crop': slice(1, 5, None)})
    """

    names: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Sort and check the names."""
        given: Iterable[str] = self.names
        if isinstance(given, str):
            raise ConfigError(f"descriptors must be a sequence of names, not the string {given!r}.")
        names = tuple(sorted(given))
        object.__setattr__(self, "names", names)
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"descriptor {name!r} is given {names.count(name)} times.")
        further = [name for name in names if name not in DESCRIPTOR_COLUMNS]
        if unused := sorted(set(self.columns) - set(further)):
            raise ConfigError(
                f"columns are given of {', '.join(unused)}; the further descriptors are "
                f"{', '.join(further) or 'none'}."
            )
        columns: Mapping[str, Iterable[str]] = self.columns
        if texts := [name for name, own in columns.items() if isinstance(own, str)]:
            raise ConfigError(
                f"columns[{texts[0]!r}] must be a tuple of texts, one for each number."
            )
        found = {name: self.columns.get(name) or _find_columns(name) for name in further}
        object.__setattr__(self, "columns", {name: tuple(texts) for name, texts in found.items()})

    @property
    def width(self) -> int:
        """Length of omega."""
        return sum(self.widths.values())

    @property
    def widths(self) -> dict[str, int]:
        """Number of columns of each descriptor, in order."""
        return {name: len(texts) for name, texts in self.meanings().items()}

    def meanings(self) -> dict[str, tuple[str, ...]]:
        """Return what each number of each descriptor means, in order."""
        every = {**DESCRIPTOR_COLUMNS, **self.columns}
        return {name: every[name] for name in self.names}

    def slices(self) -> dict[str, slice]:
        """Return the columns of each descriptor in omega, in order."""
        columns: dict[str, slice] = {}
        start = 0
        for name, width in self.widths.items():
            columns[name] = slice(start, start + width)
            start += width
        return columns

    def select(self, descriptors: "Tensor", source: "DescriptorLayout | None" = None) -> "Tensor":
        """Select this layout's columns.

        Args:
            descriptors: (B, source.width).
            source: The layout of `descriptors`; by default `ALL_DESCRIPTORS`, 14 numbers.
                Further descriptors that it lacks belong to augmentations that were not applied,
                and are 0.

        Returns:
            (B, width).

        Raises:
            ConfigError: If `descriptors` do not have the columns of `source`, this lacks one of the
                paper's descriptors, or a descriptor's width differs between the two layouts.
        """
        from torch import cat

        source = source or ALL_DESCRIPTORS
        columns, there = source.slices(), source.widths
        absent = (set(self.names) & DESCRIPTOR_COLUMNS.keys()) - columns.keys()
        if absent or descriptors.shape[1:] != (source.width,):
            raise ConfigError(
                f"{self.names} cannot be selected from {tuple(descriptors.shape)} descriptors with "
                f"the columns {columns}; pass `source`, the layout that these have."
            )
        parts = []
        for name, width in self.widths.items():
            if there.get(name, width) != width:
                raise ConfigError(
                    f"descriptor {name!r} has {width} numbers in a model and {there[name]} in the "
                    "augmentation of that name: use the version that the model was trained with."
                )
            zeros = descriptors.new_zeros(len(descriptors), width)
            parts.append(descriptors[:, columns[name]] if name in columns else zeros)
        return cat(parts, dim=1) if parts else descriptors[:, :0]


def _find_columns(name: str) -> tuple[str, ...]:
    from cassle_zoo.augmentation import registry  # which imports torch

    further = registry.augmentations()
    if name not in further:
        error = unknown_name("descriptor", name, (*DESCRIPTOR_COLUMNS, *further))
        raise UnknownNameError(f"{error} {registry.HOW_TO_REGISTER}")
    return further[name].columns


ALL_DESCRIPTORS = DescriptorLayout(tuple(DESCRIPTOR_COLUMNS))
"""All descriptors of the paper's augmentations: 14 numbers."""
