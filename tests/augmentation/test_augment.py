import colorsys
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import make_image
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from cassle_zoo.augmentation import pixels
from cassle_zoo.augmentation.augment import (
    AugmentConfig,
    AugmentParams,
    apply_params,
    describe,
    draw_uniforms,
    params_from_uniforms,
    sample_params,
    view_generator,
)
from cassle_zoo.augmentation.crop import crop_box, cut_crops
from cassle_zoo.augmentation.descriptors import (
    ALL_DESCRIPTORS,
    PAPER_DESCRIPTORS,
    DescriptorLayout,
)
from cassle_zoo.common.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden" / "c_augment_96.npz"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(count: int = 64, size: int = 32, **settings: Any) -> tuple[AugmentConfig, AugmentParams]:
    config = AugmentConfig(size=size, **settings)
    source = torch.tensor([[40, 60]]).repeat(count, 1)
    return config, sample_params(config, source, generator=generator())


def golden_view(view: str) -> tuple[dict[str, Tensor], AugmentConfig, AugmentParams]:
    with np.load(GOLDEN) as arrays:
        prefix = f"{view}/"
        g = {
            key.removeprefix(prefix): torch.from_numpy(arrays[key])
            for key in arrays.files
            if key.startswith(prefix)
        }
        source = torch.from_numpy(arrays["source_size_WH"]).flip(1)
    names = ("brightness", "contrast", "saturation", "hue")
    params = AugmentParams(
        box=(g["crop_ijhw_rel"].double() * source.repeat(1, 2)).round().long(),
        source=source,
        flip=g["0_hflip/batch_prob"],
        jitter=g["1_jitter/batch_prob"],
        factors=torch.stack([g[f"1_jitter/{name}_factor"] for name in names], dim=1),
        order=g["1_jitter/order"].repeat(len(source), 1),
        grayscale=g["2_gray/batch_prob"],
        blur=g["3_blur/batch_prob"],
        sigma=g["3_blur/sigma"],
    )
    mean, std = (tuple(g[f"4_norm/{name}"].tolist()) for name in ("mean", "std"))
    return g, AugmentConfig(size=96, mean=mean, std=std), params


@pytest.mark.parametrize("view", ["v1", "v2"])
def test_equals_official(view: str) -> None:
    g, config, params = golden_view(view)
    images, color_diff = apply_params(g["x_crop_uint8"], params, config)
    expected = g["x_out_float64run_as_float32"]
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    exact, _ = apply_params(g["x_crop_uint8"].double() / 255, params, config)
    torch.testing.assert_close(exact.float(), expected, rtol=0, atol=1e-6)
    omega = describe(params, color_diff, DescriptorLayout(PAPER_DESCRIPTORS), config)
    torch.testing.assert_close(omega, g["desc_cat_readme"], rtol=0, atol=1e-6)
    omega = describe(params, color_diff, ALL_DESCRIPTORS, config)
    for name, columns in ALL_DESCRIPTORS.slices().items():
        torch.testing.assert_close(omega[:, columns], g[f"desc/{name}"].float(), rtol=0, atol=1e-6)


def test_golden_covers_every_operation() -> None:
    masks = [golden_view(view)[2] for view in ("v1", "v2")]
    for name in ("flip", "jitter", "grayscale", "blur"):
        applied = torch.cat([getattr(params, name) for params in masks])
        assert applied.any()
        assert not applied.all()


def test_same_generator_same_pixels() -> None:
    crops = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=generator())
    results = []
    for _ in range(2):
        config, params = sample(16)
        images, color_diff = apply_params(crops, params, config)
        results.append((images, describe(params, color_diff, ALL_DESCRIPTORS, config)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_views_do_not_depend_on_their_batch() -> None:
    crops = torch.rand(16, 3, 32, 32, generator=generator())
    config, params = sample(16)
    together, color_diff = apply_params(crops, params, config)
    for index in range(16):
        one = slice(index, index + 1)
        alone, alone_diff = apply_params(crops[one], params[one], config)
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone_diff, color_diff[one], rtol=0, atol=1e-6)


def test_input_is_not_changed() -> None:
    crops = torch.rand(8, 3, 32, 32)
    before = crops.clone()
    config, params = sample(8)
    apply_params(crops, params, config)
    assert torch.equal(crops, before)


@pytest.mark.parametrize("shape", [(8, 3, 32, 32), (4, 1, 32, 32), (4, 3, 24, 24), (3, 32, 32)])
def test_crops_of_other_parameters_are_refused(shape: tuple[int, ...]) -> None:
    config, params = sample(4)
    with pytest.raises(ConfigError, match=r"they must be \(4, 3, 32, 32\)"):
        apply_params(torch.rand(shape), params, config)
    with pytest.raises(ConfigError, match=r"torch\.int16; they must be torch\.uint8"):
        apply_params(torch.zeros(4, 3, 32, 32, dtype=torch.int16), params, config)


def test_frequencies_and_ranges() -> None:
    _, params = sample(20_000)
    for name, p in (("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("blur", 0.5)):
        assert abs(getattr(params, name).float().mean() - p) < 0.015
    low = params.factors.amin(dim=0)
    high = params.factors.amax(dim=0)
    torch.testing.assert_close(low, torch.tensor([0.6, 0.6, 0.6, -0.1]), rtol=0, atol=0.002)
    torch.testing.assert_close(high, torch.tensor([1.4, 1.4, 1.4, 0.1]), rtol=0, atol=0.002)
    assert 0.1 <= params.sigma.min() < 0.11
    assert 1.99 < params.sigma.max() < 2
    orders = {tuple(row) for row in params.order.tolist()}
    assert len(orders) == 24
    area = params.box[:, 2] * params.box[:, 3] / (40 * 60)
    assert area.min() > 0.18
    assert area.max() <= 1
    ratio = params.box[:, 3] / params.box[:, 2]
    assert ratio.min() > 0.7
    assert ratio.max() < 1.42
    assert (params.box[:, :2] >= 0).all()
    assert (params.box[:, :2] + params.box[:, 2:] <= params.source).all()
    uniforms = draw_uniforms(1000, generator())
    assert 0 <= uniforms.min() < uniforms.max() < 1


def test_what_is_drawn_is_uniform_and_independent() -> None:
    config = AugmentConfig(size=32, crop_scale=(0.1, 0.3))
    source = torch.tensor([[1000, 1000]]).expand(10_000, 2)
    params = sample_params(config, source, generator=generator())
    top, left, height, width = params.box.double().unbind(1)
    ratio = (width / height).log() / math.log(4 / 3)
    strengths = (params.factors.double() - torch.tensor([1, 1, 1, 0])) / torch.tensor(
        [0.4] * 3 + [0.1]
    )
    drawn = [(height * width / 1e6 - 0.1) / 0.2, (ratio + 1) / 2, top / (1000 - height)]
    drawn += [left / (1000 - width), (params.sigma.double() - 0.1) / 1.9]
    values = torch.cat([torch.stack(drawn, dim=1), (strengths + 1) / 2], dim=1)
    torch.testing.assert_close(values.amin(0), torch.zeros(9).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(values.amax(0), torch.ones(9).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(values.mean(0), torch.full((9,), 0.5).double(), rtol=0, atol=0.015)
    assert (top + height).max() == (left + width).max() == 1000
    flags = torch.stack([params.flip, params.jitter, params.grayscale, params.blur], dim=1)
    every = torch.cat([values, flags, params.order.argsort(1)], dim=1)
    correlation = torch.corrcoef(every.T)[:13]  # the places of the factors exclude each other
    assert (correlation - torch.eye(13, 17)).abs().max() < 0.05


def test_descriptor_of_an_untouched_view() -> None:
    config = AugmentConfig(
        size=32, flip_p=0, jitter_p=0, grayscale_p=0, blur_p=0, crop_scale=(1, 1), crop_ratio=(1, 1)
    )
    params = sample_params(config, torch.tensor([[50, 50]]), generator=generator())
    crops = torch.rand(1, 3, 32, 32)
    images, color_diff = apply_params(crops, params, config)
    omega = describe(params, color_diff, ALL_DESCRIPTORS, config)
    columns = ALL_DESCRIPTORS.slices()
    assert torch.equal(omega[:, columns["crop"]], torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
    assert omega.sum() == 3  # everything but the crop is 0
    restored = images * torch.tensor(config.std).view(3, 1, 1) + torch.tensor(config.mean).view(
        3, 1, 1
    )
    torch.testing.assert_close(restored, crops, rtol=0, atol=1e-6)


def test_flip_mirrors_the_crop_centre() -> None:
    config, params = sample(8, flip_p=1.0, crop_scale=(0.2, 0.4))
    unflipped = dataclasses.replace(params, flip=torch.zeros(8, dtype=torch.bool))
    columns = ALL_DESCRIPTORS.slices()["crop"]
    zeros = torch.zeros(8, 3)
    flipped_crop = describe(params, zeros, ALL_DESCRIPTORS, config)[:, columns]
    crop = describe(unflipped, zeros, ALL_DESCRIPTORS, config)[:, columns]
    torch.testing.assert_close(flipped_crop[:, 1], 1 - crop[:, 1])
    assert torch.equal(flipped_crop[:, [0, 2, 3]], crop[:, [0, 2, 3]])


def test_rows_map_to_rows() -> None:
    config, _ = sample(1)
    uniforms = draw_uniforms(4, generator())
    source = torch.tensor([[40, 60], [10, 10], [300, 20], [1, 1]])
    params = params_from_uniforms(config, uniforms, source)
    for index in range(4):
        one = params_from_uniforms(config, uniforms[index : index + 1], source[index : index + 1])
        for field in dataclasses.fields(params):
            assert torch.equal(getattr(one, field.name)[0], getattr(params, field.name)[index])
        height, width = source[index].tolist()
        row = uniforms[index].tolist()
        box = crop_box(height, width, row, config.crop_scale, config.crop_ratio)
        assert params.box[index].tolist() == list(box)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1, 1), (0, 0, 1, 1)),
        ((1, 500), (0, 249, 1, 1)),
        ((500, 1), (249, 0, 1, 1)),
        ((3, 1000), (0, 498, 3, 4)),
        ((90, 30), (25, 0, 40, 30)),
    ],
)
def test_of_extreme_images_the_crop_is_central(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    height, width = size
    uniforms = draw_uniforms(1, generator())[0].tolist()
    assert crop_box(height, width, uniforms, (0.9, 1.0), (3 / 4, 4 / 3)) == box
    image = Image.new("RGB", (width, height), (10, 20, 30))
    (crop,) = cut_crops(image, [box], 8)
    assert crop.shape == (3, 8, 8)
    assert crop[:, 0, 0].tolist() == [10, 20, 30]


def test_crop_cuts_the_right_place() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[10:20, 30:50] = 255
    (crop,) = cut_crops(Image.fromarray(image), [(10, 30, 10, 20)], 16)
    assert crop.min() == 255


def test_crops_are_those_of_pillow_but_for_rounding() -> None:
    image = make_image(size=(120, 90))
    boxes = [(0, 0, 90, 120), (7, 11, 80, 64), (30, 40, 5, 9), (89, 119, 1, 1)]
    for crop, (top, left, h, w) in zip(cut_crops(image, boxes, 32), boxes, strict=True):
        cut = image.crop((left, top, left + w, top + h))
        expected = pil_to_tensor(cut.resize((32, 32), Image.Resampling.BILINEAR))
        difference = (crop.int() - expected.int()).abs()
        assert difference.max() <= 1
        assert difference.float().mean() < 0.05


def test_view_generator_depends_on_each_argument() -> None:
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, -1, -1)]
    draws = {float(torch.rand(1, generator=view_generator(*key))) for key in keys}
    assert len(draws) == len(keys)
    first, second = (torch.rand(3, generator=view_generator(5, 4, 3, 1)) for _ in range(2))
    assert torch.equal(first, second)


def test_blur_equals_convolution() -> None:
    images = torch.rand(2, 3, 20, 31, dtype=torch.float64)
    sigma = torch.tensor([0.3, 1.7], dtype=torch.float64)
    offsets = torch.arange(-3, 4, dtype=torch.float64)
    blurred = pixels.gaussian_blur(images, sigma, 7)
    for index in range(2):
        taps = torch.exp(-(offsets**2) / (2 * sigma[index] ** 2))
        kernel = torch.outer(taps, taps) / taps.sum() ** 2
        padded = F.pad(images[index : index + 1], (3, 3, 3, 3), mode="reflect")
        expected = F.conv2d(padded, kernel.expand(3, 1, 7, 7), groups=3)
        torch.testing.assert_close(blurred[index : index + 1], expected)


def test_hue_and_saturation_equal_the_way_through_hsv() -> None:
    steps = torch.linspace(0, 1, 6, dtype=torch.float64)
    colours = torch.cartesian_prod(steps, steps, steps)  # with greys, and equal largest channels
    images = colours.T.reshape(1, 3, 6, 36)
    for strength in (-0.5, -0.07, 0.0, 0.3, 1.0, 2.5):
        factor = torch.tensor([strength], dtype=torch.float64)
        hues, saturations = [], []
        for colour in colours.tolist():
            h, s, v = colorsys.rgb_to_hsv(*colour)
            hues.append(colorsys.hsv_to_rgb((h + strength) % 1, s, v))
            saturations.append(colorsys.hsv_to_rgb(h, min(1, s * abs(strength)), v))
        turned = pixels.adjust_hue(images, factor).view(3, -1).T
        torch.testing.assert_close(turned, torch.tensor(hues, dtype=torch.float64))
        deepened = pixels.adjust_saturation(images, factor.abs()).view(3, -1).T
        torch.testing.assert_close(deepened, torch.tensor(saturations, dtype=torch.float64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flip_p": 1.5}, "flip_p"),
        ({"hue": 0.6}, r"hue must be a number within \[0, 0.5\], got 0.6"),
        ({"crop_scale": (0.9, 0.1)}, r"crop_scale.*\(0.9, 0.1\)"),
        ({"crop_scale": (0.2, 1.1)}, r"crop_scale.*within \(0, 1\], got 1.1"),
        ({"blur_kernel": 4}, "blur_kernel must be odd"),
        ({"size": 8, "blur_kernel": 17}, "blur_kernel"),
        ({"mean": (0.5, 0.5)}, r"mean must be 3 values, got \(0.5, 0.5\)"),
    ],
)
def test_bad_config(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**fields)


def test_default_blur_kernels() -> None:
    assert [AugmentConfig(size=size).kernel for size in (224, 96, 64)] == [23, 9, 7]


def test_a_kernel_of_one_tap_does_not_blur_and_omega_says_so() -> None:
    config, params = sample(size=16, blur_p=1)
    assert config.kernel == 1
    omega = describe(params, torch.zeros(len(params), 3), ALL_DESCRIPTORS, config)
    assert not omega[:, ALL_DESCRIPTORS.slices()["blur"]].any()
    assert sample(size=20, blur_p=1)[1].blur.all()


def test_grey_images_are_augmented_like_grey_rgb() -> None:
    off: dict[str, Any] = {"saturation": 0, "hue": 0, "grayscale_p": 0, "mean": (0.5,)}
    rgb, grey = (AugmentConfig(size=16, channels=c, std=(0.2,), **off) for c in (3, 1))
    crops = torch.rand(32, 1, 16, 16, generator=generator())
    source = torch.tensor([[40, 60]]).expand(32, 2)
    params = sample_params(rgb, source, generator=generator())
    assert torch.equal(params.factors, sample_params(grey, source, generator=generator()).factors)
    expected, rgb_diff = apply_params(crops.expand(-1, 3, -1, -1), params, rgb)
    images, grey_diff = apply_params(crops, params, grey)
    # The luma of the contrast has weights that sum to 0.9999.
    torch.testing.assert_close(images.expand(-1, 3, -1, -1), expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(
        describe(params, grey_diff, ALL_DESCRIPTORS, grey),
        describe(params, rgb_diff, ALL_DESCRIPTORS, rgb),
        rtol=0,
        atol=1e-4,
    )


def test_many_channels_are_augmented_alike() -> None:
    off: dict[str, Any] = {"saturation": 0, "hue": 0, "grayscale_p": 0, "mean": (0,), "std": (1,)}
    config = AugmentConfig(size=16, channels=6, jitter_p=1, blur_p=0, contrast=0, **off)
    crops = torch.rand(32, 6, 16, 16, generator=generator())
    params = sample_params(config, torch.tensor([[9, 9]]).expand(32, 2), generator=generator())
    images, color_diff = apply_params(crops, params, config)
    flipped = torch.where(params.flip.view(-1, 1, 1, 1), crops.flip(3), crops)
    torch.testing.assert_close(images, (flipped * params.factors[:, :1, None, None]).clamp(0, 1))
    difference = (crops.mean((1, 2, 3)) - images.mean((1, 2, 3))).unsqueeze(1)
    torch.testing.assert_close(color_diff, difference.expand(-1, 3))
    omega = describe(params, color_diff, ALL_DESCRIPTORS, config)[
        :, ALL_DESCRIPTORS.slices()["color"]
    ]
    torch.testing.assert_close(omega[:, 0], (params.factors[:, 0] - 1) / 0.8)
    assert not omega[:, 1:].any()
    order = params.order[:, [0]] == 1  # contrast first
    grey = dataclasses.replace(config, brightness=0, contrast=0.4)
    found, _ = apply_params(crops, params, grey)
    factor = params.factors[:, 1].view(-1, 1, 1, 1)
    mean = flipped.mean((1, 2, 3), keepdim=True)
    bright = (flipped * factor + (1 - factor) * mean).clamp(0, 1)
    bright = (bright * params.factors[:, :1, None, None]).clamp(0, 1)
    torch.testing.assert_close(found[order[:, 0]], bright[order[:, 0]])


def test_pixels_and_omega_are_in_float32_inside_autocast_and_of_half_crops() -> None:
    config, params = sample(blur_p=1)
    crops = torch.rand(64, 3, 32, 32, generator=generator())
    expected = apply_params(crops, params, config)
    with torch.autocast("cpu", torch.bfloat16):
        found = apply_params(crops, params, config)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    for dtype in (torch.float16, torch.bfloat16):
        images, color_diff = apply_params(crops.to(dtype), params, config)
        assert images.dtype == color_diff.dtype == torch.float32
