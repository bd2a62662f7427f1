"""Settings of the views of an image: their number, and how some of them differ."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from cassle_zoo.augmentation.augment import JITTER_FACTORS, AugmentConfig, Fraction
from cassle_zoo.augmentation.registry import find_augmentation
from cassle_zoo.common.config import POSITIVE, Range, check_fields
from cassle_zoo.common.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ViewChanges:
    """How one kind of view differs from `augment`; `None` keeps the value there.

    Attributes:
        crop_scale: Smallest and largest area of a crop, as a fraction of the image's.
        crop_ratio: Smallest and largest ratio of width to height of a crop.
        flip_p: Probability of a horizontal flip.
        jitter_p: Probability of the colour jitter.
        brightness: Strength of the brightness jitter; likewise the next three.
        contrast: Strength of the contrast jitter.
        saturation: Strength of the saturation jitter.
        hue: Strength of the hue jitter.
        grayscale_p: Probability of the conversion to grey.
        blur_p: Probability of the Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur in pixels.
        blur_kernel: Odd kernel size of the blur.
        p_of: Names of further augmentations and their probabilities, such as `solarize 0.2`.
    """

    prefix: ClassVar[str]
    crop_scale: Annotated[tuple[float, float] | None, Range(0, 1, open_low=True)] = None
    crop_ratio: Annotated[tuple[float, float] | None, POSITIVE] = None
    flip_p: Fraction | None = None
    jitter_p: Fraction | None = None
    brightness: Fraction | None = None
    contrast: Fraction | None = None
    saturation: Fraction | None = None
    hue: Annotated[float | None, Range(0, 0.5)] = None
    grayscale_p: Fraction | None = None
    blur_p: Fraction | None = None
    blur_sigma: Annotated[tuple[float, float] | None, POSITIVE] = None
    blur_kernel: Annotated[int | None, Range(1)] = None
    p_of: tuple[tuple[str, Fraction], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, self.prefix)
        names = [name for name, _ in self.p_of]
        for name in names:
            find_augmentation(name)
            if names.count(name) > 1:
                raise ConfigError(f"{self.prefix}p_of names {name!r} twice; give it one p.")

    def replace_in(self, augment: AugmentConfig) -> AugmentConfig:
        """Return the distribution of these views.

        Args:
            augment: The distribution that they differ from, with all augmentations in `p_of`.

        Raises:
            ConfigError: If a value does not fit the others, or omega cannot describe it.
        """
        names = {field.name for field in dataclasses.fields(AugmentConfig)}
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        own: dict[str, Any] = {k: v for k, v in values if k in names and v is not None}
        for name in JITTER_FACTORS:
            if own.get(name) and not getattr(augment, name):
                raise ConfigError(
                    f"{self.prefix}{name} is {own[name]}, but augment.{name}, by which omega is "
                    f"scaled in all views, is 0; give augment.{name} the largest strength."
                )
        own_p = dict(self.p_of)
        extra = tuple(
            dataclasses.replace(one, p=own_p.get(one.name, one.p)) for one in augment.extra
        )
        try:
            return dataclasses.replace(augment, **own, extra=extra)
        except ConfigError as error:
            raise ConfigError(f"{self.prefix}{error}") from None


@dataclass(frozen=True, kw_only=True)
class SecondView(ViewChanges):
    """How the second view differs: by default not at all."""

    prefix: ClassVar[str] = "views.second."


@dataclass(frozen=True, kw_only=True)
class LocalViews(ViewChanges):
    """Small crops in addition to the full-size views (multi-crop), and how they differ.

    The crop is smaller by default; `None` keeps the value in `augment`.

    Attributes:
        count: Local crops of each image; 0 for none, 6 to 10 in DINO's paper.
        size: Their height and width in pixels; about 0.43 of `augment.size` in DINO's paper.
    """

    prefix: ClassVar[str] = "views.local."
    count: Annotated[int, Range(0, 100)] = 0
    size: Annotated[int, Range(1)] = 96
    crop_scale: Annotated[tuple[float, float] | None, Range(0, 1, open_low=True)] = (0.05, 0.4)


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """The views of an image: by default two, drawn alike.

    Attributes:
        count: Views of full size (global views).
        second: How the second of them differs; all others are drawn as `augment` says.
        local: Small crops in addition to them.

    Raises:
        ConfigError: If a value is out of its range.
    """

    count: Annotated[int, Range(2, 100)] = 2
    second: SecondView = dataclasses.field(default_factory=SecondView)
    local: LocalViews = dataclasses.field(default_factory=LocalViews)

    def __post_init__(self) -> None:
        check_fields(self, "views.")

    @property
    def total(self) -> int:
        """Number of views of an image."""
        return self.count + self.local.count

    @property
    def local_size(self) -> int | None:
        """Size of the local crops; `None` without any."""
        return self.local.size if self.local.count else None

    @property
    def named(self) -> set[str]:
        """Further augmentations that some views apply with a probability of their own."""
        return {name for name, _ in (*self.second.p_of, *self.local.p_of)}

    def of_each(self, augment: AugmentConfig) -> tuple[AugmentConfig, ...]:
        """Return the distribution of each view: global ones first, then local ones.

        All have the same further augmentations, with probability 0 where they are not applied.

        Raises:
            ConfigError: If a value does not fit the others.
        """
        known = {one.name for one in augment.extra}
        added = tuple(find_augmentation(name)() for name in sorted(self.named - known))
        augment = dataclasses.replace(augment, extra=(*augment.extra, *added))
        second = self.second.replace_in(augment)
        views = (augment, second, *[augment] * (self.count - 2))
        if self.local.count:
            views += (self.local.replace_in(augment),) * self.local.count
        return views
