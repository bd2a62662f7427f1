"""Augmentation with known parameters, as three functions: sample, apply and describe.

`sample_params` draws all randomness of a view from an explicit generator, `apply_params` is a
deterministic function of pixels and parameters, and `describe` turns the parameters into omega.
The recipe is the paper's (section 4): random resized crop, flip, colour jitter, grayscale, blur.
Further augmentations (`base.Augmentation`) each follow one of these.
Cropping needs the whole image, so it happens where the image is decoded (`crop.cut_crops`, in the
data workers); the rest is batched and runs on the device of its input.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from cassle_zoo.augmentation import pixels
from cassle_zoo.augmentation.base import STEPS, Augmentation, registered
from cassle_zoo.augmentation.crop import N_CROP_UNIFORMS, crop_box
from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS, DescriptorLayout
from cassle_zoo.common.config import POSITIVE, Range, check_fields
from cassle_zoo.common.devices import to_device
from cassle_zoo.common.errors import ConfigError

JITTER_FACTORS = ("brightness", "contrast", "saturation", "hue")
"""Settings of the colour jitter, in the order of `AugmentParams.factors` and the descriptor."""
_N_UNIFORMS = N_CROP_UNIFORMS + 13
_JITTER_OPS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    pixels.adjust_brightness,
    pixels.adjust_contrast,
    pixels.adjust_saturation,
    pixels.adjust_hue,
)
_NEUTRAL_FACTORS = (1.0, 1.0, 1.0, 0.0)

Fraction = Annotated[float, Range(0, 1)]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The distribution that views are drawn from.

    Attributes:
        size: Height and width of a view in pixels.
        crop_scale: Smallest and largest area of a crop, as a fraction of the image's.
        crop_ratio: Smallest and largest ratio of width to height of a crop.
        flip_p: Probability of a horizontal flip.
        jitter_p: Probability of the colour jitter.
        brightness: The factor is drawn from [1 - brightness, 1 + brightness].
        contrast: The factor is drawn from [1 - contrast, 1 + contrast].
        saturation: The factor is drawn from [1 - saturation, 1 + saturation].
        hue: The shift is drawn from [-hue, hue], in fractions of the colour circle.
        grayscale_p: Probability of the conversion to grey.
        blur_p: Probability of the Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur in pixels.
        blur_kernel: Odd kernel size of the blur; `None` means `size // 20 * 2 + 1`, which is 23
            at 224 px, 9 at 96 px and 7 at 64 px. Views with a kernel of 1, as below 20 px, are not
            blurred, and omega says so.
        channels: Number of channels of the images: 3 are RGB, 1 is grey. With any
            other number than 3, saturation, hue and grayscale must be 0.
        mean: Mean subtracted at the end: one per channel, or one for all.
        std: Standard deviation divided by at the end: one per channel, or one for all.
        extra: Further augmentations; stored in the order in which they are applied.

    Raises:
        ConfigError: If a value is out of its range, or a further augmentation is not registered.
    """

    size: Annotated[int, Range(1)] = 224
    crop_scale: Annotated[tuple[float, float], Range(0, 1, open_low=True)] = (0.2, 1.0)
    crop_ratio: Annotated[tuple[float, float], POSITIVE] = (3 / 4, 4 / 3)
    flip_p: Fraction = 0.5
    jitter_p: Fraction = 0.8
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.4
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    grayscale_p: Fraction = 0.2
    blur_p: Fraction = 0.5
    blur_sigma: Annotated[tuple[float, float], POSITIVE] = (0.1, 2.0)
    blur_kernel: Annotated[int | None, Range(1)] = None
    channels: Annotated[int, Range(1)] = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: Annotated[tuple[float, ...], POSITIVE] = (0.229, 0.224, 0.225)
    extra: tuple[Augmentation, ...] = ()

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)
        for name in ("mean", "std"):
            object.__setattr__(self, name, self._per_channel(name))
        self._check_colour()
        check_names(type(one) for one in self.extra)
        order = sorted(self.extra, key=lambda one: (STEPS.index(one.after), one.name))
        object.__setattr__(self, "extra", tuple(order))
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{name} must be 0 < low <= high, got {(low, high)}.")
        if self.kernel % 2 == 0 or self.kernel // 2 >= self.size:
            raise ConfigError(
                f"blur_kernel must be odd and less than twice the size of a view ({self.size}), "
                f"got {self.kernel}."
            )

    def _per_channel(self, name: str) -> tuple[float, ...]:
        values: tuple[float, ...] = getattr(self, name)
        if len(values) not in (1, self.channels):
            raise ConfigError(
                f"{name} must be {self.channels} values, got {values}, or one for all channels."
            )
        return tuple(values) if len(values) == self.channels else tuple(values) * self.channels

    def _check_colour(self) -> None:
        colour = {"saturation": self.saturation, "hue": self.hue, "grayscale_p": self.grayscale_p}
        if self.channels != 3 and (wrong := {k: v for k, v in colour.items() if v > 0}):
            found = ", ".join(f"{name} {value}" for name, value in wrong.items())
            flags = " ".join(f"--augment.{name.replace('_', '-')} 0" for name in wrong)
            raise ConfigError(
                f"{found}: images of augment.channels {self.channels} are not RGB and have no such "
                f"thing; pass {flags}."
            )

    @property
    def jitter_strengths(self) -> tuple[float, float, float, float]:
        """Brightness, contrast, saturation and hue, in the order of `AugmentParams.factors`."""
        return self.brightness, self.contrast, self.saturation, self.hue

    @property
    def kernel(self) -> int:
        """Kernel size of the blur, with the default filled in."""
        return self.size // 20 * 2 + 1 if self.blur_kernel is None else self.blur_kernel

    @property
    def layout(self) -> DescriptorLayout:
        """All descriptors of this recipe: the paper's, and those of the further augmentations."""
        return DescriptorLayout((*ALL_DESCRIPTORS.names, *(one.name for one in self.extra)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON types; those of a further augmentation under its name."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "extra"]
        values = {name: getattr(self, name) for name in names}
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        # One that is off here can be on in one of the views, with these settings
        # (`views.second.p_of`).
        extra = [one for one in self.extra if one.p > 0 or one != type(one)()]
        return values | {one.name: one.to_dict() for one in extra}


def check_names(classes: Iterable[type[Augmentation]]) -> None:
    """Check that further augmentations share no name with each other or the recipe's settings.

    Raises:
        ConfigError: If one is not registered, or its name is taken.
    """
    taken = {*ALL_DESCRIPTORS.names, *(field.name for field in dataclasses.fields(AugmentConfig))}
    for cls in classes:
        who = f"the augmentation {cls.__qualname__} in extra"
        if registered().get(getattr(cls, "name", "")) is not cls:
            raise ConfigError(
                f"{who} is not registered: put @register_augmentation above its class."
            )
        if cls.name in taken:
            raise ConfigError(
                f"{who} has the name {cls.name!r}, which the recipe's settings or another "
                "augmentation in extra have; give it another."
            )
        taken.add(cls.name)


@dataclass(frozen=True, kw_only=True)
class AugmentParams:
    """Everything that is drawn at random for a batch of B views, as tensors on the CPU.

    Attributes:
        box: (B, 4) int64 top, left, height, width of the crop, in pixels of the image.
        source: (B, 2) int64 height and width of the image.
        flip: (B,) bool.
        jitter: (B,) bool, whether the colour jitter is applied.
        factors: (B, 4) float32 brightness, contrast and saturation factors, and hue shift.
        order: (B, 4) int64 permutation: the factors in the order in which they are applied.
        grayscale: (B,) bool.
        blur: (B,) bool.
        sigma: (B,) float32 standard deviation of the blur in pixels.
        extra: (B, E) float32: for each further augmentation, in the configuration's order, 1 if it
            is applied, else 0, then its parameters; by default (B, 0).
    """

    box: Tensor
    source: Tensor
    flip: Tensor
    jitter: Tensor
    factors: Tensor
    order: Tensor
    grayscale: Tensor
    blur: Tensor
    sigma: Tensor
    extra: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        if self.extra.ndim == 1 and not self.extra.numel():  # the default
            object.__setattr__(self, "extra", torch.empty(len(self), 0))

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.flip)

    def __getitem__(self, index: slice | Tensor) -> "AugmentParams":
        """Return the parameters of some of the views."""
        return AugmentParams(
            **{field.name: getattr(self, field.name)[index] for field in dataclasses.fields(self)}
        )


def view_generator(seed: int, epoch: int, sample: int, view: int) -> torch.Generator:
    """Return a generator that depends only on the four arguments."""
    key = hashlib.blake2b(f"{seed}/{epoch}/{sample}/{view}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "big", signed=True))


def draw_uniforms(count: int, generator: torch.Generator) -> Tensor:
    """Draw the (count, U) float64 uniforms in [0, 1) that determine `count` views."""
    return torch.rand(count, _N_UNIFORMS, generator=generator, dtype=torch.float64)


def sample_params(
    config: AugmentConfig, source: Tensor, *, generator: torch.Generator
) -> AugmentParams:
    """Draw the augmentation of one view of each image.

    Args:
        config: The distribution.
        source: (B, 2) int64 heights and widths of the images.
        generator: The only source of randomness.
    """
    return params_from_uniforms(config, draw_uniforms(len(source), generator), source)


def params_from_uniforms(config: AugmentConfig, uniforms: Tensor, source: Tensor) -> AugmentParams:
    """Map uniforms to parameters, row by row: a row's result depends on that row alone.

    Args:
        config: The distribution.
        uniforms: (B, U) from `draw_uniforms`.
        source: (B, 2) int64 heights and widths of the images.
    """
    boxes = [
        crop_box(int(size[0]), int(size[1]), row, config.crop_scale, config.crop_ratio)
        for size, row in zip(source.tolist(), uniforms.tolist(), strict=True)
    ]
    rest = uniforms[:, N_CROP_UNIFORMS:]
    reach = torch.tensor(config.jitter_strengths, dtype=rest.dtype)
    neutral = torch.tensor(_NEUTRAL_FACTORS, dtype=rest.dtype)
    low, high = config.blur_sigma
    return AugmentParams(
        box=torch.tensor(boxes, dtype=torch.int64).view(-1, 4),
        source=source,
        flip=rest[:, 0] < config.flip_p,
        jitter=rest[:, 1] < config.jitter_p,
        factors=(neutral + (2 * rest[:, 2:6] - 1) * reach).float(),
        order=rest[:, 6:10].argsort(dim=1),
        grayscale=rest[:, 10] < config.grayscale_p,
        blur=(rest[:, 11] < config.blur_p) & (config.kernel > 1),  # one tap changes nothing
        sigma=(low + rest[:, 12] * (high - low)).float(),
        extra=_draw_extra(config, uniforms),
    )


def _draw_extra(config: AugmentConfig, uniforms: Tensor) -> Tensor:
    parts = [uniforms[:, :0]]
    for one in config.extra:
        own = _stream(uniforms, one.name, 1 + one.parameters)
        parameters = one.sample(own[:, 1:])
        if parameters.shape != (len(own), one.parameters):
            raise ConfigError(
                f"augmentation {one.name!r}: sample returned {tuple(parameters.shape)}, expected "
                f"{(len(own), one.parameters)}: (views, parameters)."
            )
        parts += [own[:, :1] < one.p, parameters]
    return torch.cat(parts, dim=1).float()


def _stream(uniforms: Tensor, name: str, count: int) -> Tensor:
    """Return (B, count) uniforms that depend only on the view's own uniforms and on a name.

    So adding an augmentation does not change what the others draw.
    """
    rows = uniforms[:, :_N_UNIFORMS].numpy().astype("<f8")
    blocks = [f"{name}/{block}/".encode() for block in range(-(-count // 8))]
    digests = b"".join(
        hashlib.blake2b(block + row.tobytes()).digest() for row in rows for block in blocks
    )
    words = np.frombuffer(digests, "<u8").reshape(len(rows), 8 * len(blocks))[:, :count] >> 11
    return torch.from_numpy(words * 2.0**-53)


def _extra_of(
    config: AugmentConfig, extra: Tensor
) -> Iterator[tuple[Augmentation, Tensor, Tensor]]:
    """Yield each further augmentation, (B,) whether it is applied, and (B, K) its parameters."""
    width = sum(1 + one.parameters for one in config.extra)
    if extra.shape[1] != width:
        raise ConfigError(
            f"the parameters have {extra.shape[1]} numbers of further augmentations, the "
            f"configuration has {width}; use the configuration that they were drawn from."
        )
    start = 0
    for one in config.extra:
        applied, parameters = extra[:, start : start + 1 + one.parameters].split(
            [1, one.parameters], dim=1
        )
        start += 1 + one.parameters
        yield one, applied.squeeze(1) > 0, parameters


def apply_params(
    crops: Tensor, params: AugmentParams, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Flip, jitter, convert to grey, blur and normalise crops; further augmentations in between.

    Autocast does not apply.

    Args:
        crops: (B, C, size, size), uint8, or floating point in [0, 1].
        params: Parameters of each view.
        config: Kernel size, mean and standard deviation, and further augmentations.

    Returns:
        images: (B, C, size, size) normalised views, float32 unless `crops` were float64.
        color_diff: (B, 3) mean RGB before minus after the colour jitter; zeros where not applied.
            For images that are not RGB, the mean over the channels, repeated three times.

    Raises:
        ConfigError: If the shape of `crops` does not fit `params` and `config`, or they are neither
            uint8 nor floating point.
    """
    expected = (len(params), config.channels, config.size, config.size)
    if crops.shape != expected:
        raise ConfigError(
            f"the crops are {tuple(crops.shape)}, but by their parameters and configuration they "
            f"must be {expected}: (views, channels, size, size)."
        )
    if crops.dtype != torch.uint8 and not crops.is_floating_point():
        raise ConfigError(
            f"the crops are {crops.dtype}; they must be torch.uint8, or floating point in [0, 1]."
        )
    narrow = crops.dtype in (torch.uint8, torch.float16, torch.bfloat16)
    images = crops.float() if narrow else crops.clone()
    if crops.dtype == torch.uint8:
        images.div_(255)
    kind = images.device.type
    # The meta device, for one, has no autocast.
    available = torch.amp.is_autocast_available(kind)
    with torch.autocast(kind, enabled=False) if available else contextlib.nullcontext():
        return _apply_in_place(images, params, config)


def _apply_in_place(
    images: Tensor, params: AugmentParams, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    _update(images, params.flip, lambda x: x.flip(3))
    _apply_extra(images, params, config, "flip")
    before = images.mean(dim=(2, 3))
    factors = to_device(params.factors.to(images.dtype), images.device)
    for step in params.order.unbind(1):  # each image has its own order
        for op, adjust in enumerate(_JITTER_OPS if config.channels == 3 else _JITTER_OPS[:2]):
            _update(images, params.jitter & (step == op), adjust, factors[:, op])
    color_diff = before - images.mean(dim=(2, 3))
    if config.channels != 3:
        color_diff = color_diff.mean(dim=1, keepdim=True).expand(-1, 3)
    _apply_extra(images, params, config, "jitter")
    _update(images, params.grayscale, pixels.grayscale)
    _apply_extra(images, params, config, "grayscale")
    blur = functools.partial(pixels.gaussian_blur, kernel_size=config.kernel)
    _update(images, params.blur, blur, to_device(params.sigma.to(images.dtype), images.device))
    _apply_extra(images, params, config, "blur")
    statistics = torch.tensor([config.mean, config.std], dtype=images.dtype).view(2, -1, 1, 1)
    mean, std = to_device(statistics, images.device)
    return images.sub_(mean).div_(std), color_diff


def describe(
    params: AugmentParams, color_diff: Tensor, layout: DescriptorLayout, config: AugmentConfig
) -> Tensor:
    """Return omega, (B, layout.width) float32 on the device of `color_diff`.

    Args:
        params: The parameters of the views.
        color_diff: (B, 3) from `apply_params`.
        layout: Which descriptors, in which columns. Those of a further augmentation that is not in
            `config` are 0.
        config: The ranges that scale the colour factors, and the further augmentations.

    Raises:
        ConfigError: If a descriptor's width in `layout` is not what its augmentation returns.
    """
    scale = torch.tensor([1 / (2 * r) if r > 0 else 0.0 for r in config.jitter_strengths])
    neutral = torch.tensor(_NEUTRAL_FACTORS)
    parts = {
        "blur": (params.sigma * params.blur).unsqueeze(1),
        "color": (params.factors - neutral) * scale * params.jitter.unsqueeze(1),
        "color_diff": color_diff,
        "flip": params.flip.unsqueeze(1),
        "grayscale": params.grayscale.unsqueeze(1),
    }
    crop = _describe_crop(params)
    for one, applied, parameters in _extra_of(config, params.extra):
        rows = applied.unsqueeze(1)
        parts[one.name] = torch.where(rows, one.describe(parameters), 0)
        crop = torch.where(rows, one.describe_crop(crop, parameters), crop)
    parts["crop"] = crop
    columns = []
    for name, width in layout.widths.items():
        part = parts.get(name, torch.zeros(len(params), width))
        if part.shape != (len(params), width):
            raise ConfigError(
                f"augmentation {name!r} describes views by {tuple(part.shape)}, but its columns "
                f"are {(len(params), width)}: (views, columns)."
            )
        columns.append(to_device(part.float(), color_diff.device))
    return torch.cat(columns, dim=1) if columns else color_diff.new_zeros(len(params), 0).float()


def _describe_crop(params: AugmentParams) -> Tensor:
    height, width = params.source.double().unbind(1)
    top, left, box_height, box_width = params.box.double().unbind(1)
    centre_y = (top + box_height / 2) / height
    centre_x = (left + box_width / 2) / width
    centre_x = torch.where(params.flip, 1 - centre_x, centre_x)
    return torch.stack([centre_y, centre_x, box_height / height, box_width / width], dim=1)


def _apply_extra(images: Tensor, params: AugmentParams, config: AugmentConfig, after: str) -> None:
    """Apply the further augmentations that follow a step, in place."""
    for one, applied, parameters in _extra_of(config, params.extra):
        if one.after == after:
            values = to_device(parameters.to(images.dtype), images.device)
            _update(images, applied, functools.partial(_checked, one), values)


def _checked(one: Augmentation, images: Tensor, parameters: Tensor) -> Tensor:
    result = one.apply(images, parameters)
    if result.shape != images.shape:
        raise ConfigError(
            f"augmentation {one.name!r} made {tuple(result.shape)} of {tuple(images.shape)} images."
        )
    return result


def _update(
    images: Tensor, mask: Tensor, op: Callable[..., Tensor], strengths: Tensor | None = None
) -> None:
    """Replace images[mask] in place. `mask` is on the CPU, which avoids waiting for a GPU."""
    index = to_device(mask.nonzero().squeeze(1), images.device)
    if len(index):
        chosen = images[index]
        images[index] = op(chosen) if strengths is None else op(chosen, strengths[index])
