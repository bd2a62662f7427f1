"""Rotation, solarisation and vertical flip, against torchvision; the recipe around them."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from cassle_zoo.augmentation import pixels
from cassle_zoo.augmentation.augment import (
    AugmentConfig,
    _stream,
    apply_params,
    describe,
    draw_uniforms,
    params_from_uniforms,
)
from cassle_zoo.augmentation.base import STEPS, Augmentation
from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS, DescriptorLayout
from cassle_zoo.augmentation.further import Rotation, Solarize, VerticalFlip
from cassle_zoo.augmentation.registry import find_augmentation
from cassle_zoo.common.errors import ConfigError, UnknownNameError

ALL: tuple[Augmentation, ...] = (Rotation(p=0.5), Solarize(p=0.3), VerticalFlip(p=0.5))
NOTHING: dict[str, Any] = {
    "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip_p": 0.0, "jitter_p": 0.0,
    "grayscale_p": 0.0, "blur_p": 0.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0),
}  # fmt: skip


def uniforms(count: int, seed: int = 0) -> Tensor:
    return draw_uniforms(count, torch.Generator().manual_seed(seed))


def views(config: AugmentConfig, crops: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Images and, by descriptor, omega."""
    source = torch.tensor([[48, 48]]).expand(len(crops), 2)
    params = params_from_uniforms(config, uniforms(len(crops)), source)
    images, color_diff = apply_params(crops, params, config)
    omega = describe(params, color_diff, config.layout, config)
    return images, {name: omega[:, own] for name, own in config.layout.slices().items()}


def alone(one: Augmentation, crops: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return views(AugmentConfig(size=crops.shape[2], extra=(one,), **NOTHING), crops)


def test_rotation_is_torchvisions() -> None:
    crops = torch.rand(8, 3, 33, 33)
    images, omega = alone(Rotation(p=1, degrees=180), crops)
    assert omega["rotation"].shape == (8, 2)
    for crop, image, (sine, versine) in zip(crops, images, omega["rotation"].tolist(), strict=True):
        degrees = math.degrees(math.atan2(sine, 1 - versine))
        expected = tv.rotate(crop, degrees, InterpolationMode.BILINEAR)
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-3)
    assert torch.equal(omega["crop"], torch.tensor([[0.5, 0.5, 1, 1]]).expand(8, 4))


def test_rotation_of_views_that_are_not_square() -> None:
    crop = torch.rand(1, 3, 20, 30)
    angle = torch.deg2rad(torch.tensor([[37.0]]))
    expected = tv.rotate(crop, 37, InterpolationMode.BILINEAR)
    torch.testing.assert_close(Rotation().apply(crop, angle), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_padding_of_a_rotation(padding: Any) -> None:
    image = Rotation(padding=padding).apply(torch.ones(1, 3, 16, 16), torch.full((1, 1), 0.7))
    assert (image.min() < 0.5) == (padding == "zeros")


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_solarisation_is_torchvisions(threshold: float) -> None:
    crops = torch.rand(4, 3, 16, 16)
    images, omega = alone(Solarize(p=1, threshold=threshold), crops)
    torch.testing.assert_close(images, tv.solarize(crops, threshold))
    assert omega["solarize"].tolist() == [[1]] * 4


def test_vertical_flip_is_torchvisions() -> None:
    crops = torch.rand(4, 3, 16, 16)
    images, omega = alone(VerticalFlip(p=1), crops)
    assert torch.equal(images, tv.vertical_flip(crops))
    assert omega["vertical_flip"].tolist() == [[1]] * 4


def test_vertical_flip_mirrors_the_crop() -> None:
    crops = torch.rand(64, 3, 16, 16)
    _, before = views(AugmentConfig(size=16), crops)
    _, omega = views(AugmentConfig(size=16, extra=(VerticalFlip(p=0.5),)), crops)
    flipped = omega["vertical_flip"][:, 0] == 1
    assert 16 < flipped.sum() < 48
    y = torch.where(flipped, 1 - before["crop"][:, 0], before["crop"][:, 0])
    torch.testing.assert_close(omega["crop"][:, 0], y)
    assert torch.equal(omega["crop"][:, 1:], before["crop"][:, 1:])


def test_others_keep_their_numbers() -> None:
    source = torch.tensor([[48, 48]]).expand(256, 2)
    drawn = uniforms(256)
    plain = params_from_uniforms(AugmentConfig(size=16), drawn, source)
    every = params_from_uniforms(AugmentConfig(size=16, extra=ALL), drawn, source)
    for field in dataclasses.fields(plain):
        if field.name != "extra":
            assert torch.equal(getattr(plain, field.name), getattr(every, field.name))
    columns = {"rotation": [0, 1], "solarize": [3], "vertical_flip": [2]}
    for one in ALL:
        own = params_from_uniforms(AugmentConfig(size=16, extra=(one,)), drawn, source).extra
        assert torch.equal(own, every.extra[:, columns[one.name]])


def test_streams_are_uniform_and_differ() -> None:
    source = torch.tensor([[48, 48]]).expand(5000, 2)
    config = AugmentConfig(size=16, extra=ALL)
    extra = params_from_uniforms(config, uniforms(5000), source).extra
    applied = extra[:, [0, 2, 3]]
    torch.testing.assert_close(applied.mean(0), torch.tensor([0.5, 0.5, 0.3]), rtol=0, atol=0.03)
    degrees = torch.rad2deg(extra[:, 1])
    assert degrees.min() == pytest.approx(-30, abs=0.2)
    assert degrees.max() == pytest.approx(30, abs=0.2)
    assert abs(degrees.mean()) < 0.7
    correlation = torch.corrcoef(torch.cat([extra, uniforms(5000)[:, 22:].float()], 1).T)
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.06


def test_a_stream_may_be_long() -> None:
    assert len(_stream(uniforms(1), "any", 20).unique()) == 20


@pytest.mark.parametrize("after", STEPS)
def test_a_further_augmentation_follows_its_step(
    after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Solarize, "after", after)
    config = AugmentConfig(
        size=16, flip_p=1, jitter_p=1, contrast=0, saturation=0, hue=0, grayscale_p=1, blur_p=1,
        blur_kernel=5, mean=(0,), std=(1,), extra=(Solarize(p=1),),
    )  # fmt: skip
    params = params_from_uniforms(config, uniforms(4), torch.tensor([[48, 48]]).expand(4, 2))
    x = torch.rand(4, 3, 16, 16)
    images, color_diff = apply_params(x, params, config)
    steps: dict[str, Callable[[Tensor], Tensor]] = {
        "flip": lambda x: x.flip(3),
        "jitter": lambda x: pixels.adjust_brightness(x, params.factors[:, 0]),
        "grayscale": pixels.grayscale,
        "blur": lambda x: pixels.gaussian_blur(x, params.sigma, 5),
    }
    for name, step in steps.items():
        before, x = x.mean((2, 3)), step(x)
        if name == "jitter":
            torch.testing.assert_close(color_diff, before - x.mean((2, 3)))
        if name == after:
            x = tv.solarize(x, 0.5)
    torch.testing.assert_close(images, x)


def test_no_views() -> None:
    config = AugmentConfig(size=16, extra=ALL)
    params = params_from_uniforms(config, uniforms(0), torch.zeros(0, 2, dtype=torch.int64))
    assert apply_params(torch.rand(0, 3, 16, 16), params[:0], config)[0].shape == (0, 3, 16, 16)


def test_a_view_depends_neither_on_its_batch_nor_on_the_order_given() -> None:
    crops = torch.rand(12, 3, 16, 16)
    together, omegas = views(AugmentConfig(size=16, extra=ALL), crops)
    other, other_omegas = views(AugmentConfig(size=16, extra=ALL[::-1]), crops)
    assert torch.equal(together, other)
    assert all(torch.equal(omegas[name], other_omegas[name]) for name in omegas)
    config, source = AugmentConfig(size=16, extra=ALL), torch.tensor([[48, 48]]).expand(12, 2)
    params = params_from_uniforms(config, uniforms(12), source)
    for row in range(12):
        one = slice(row, row + 1)
        image, _ = apply_params(crops[one], params[one], config)
        torch.testing.assert_close(image, together[one], rtol=0, atol=1e-5)
    assert [one.name for one in config.extra] == ["rotation", "vertical_flip", "solarize"]


def test_omega_is_zero_where_nothing_was_applied() -> None:
    crops = torch.rand(200, 3, 8, 8)
    _, omega = views(AugmentConfig(size=8, extra=ALL), crops)
    for name in ("rotation", "solarize", "vertical_flip"):
        none = (omega[name] == 0).all(1)
        assert 20 < none.sum() < 180
    off = tuple(dataclasses.replace(one, p=0.0) for one in ALL)
    images, omega = views(AugmentConfig(size=8, extra=off), crops)
    plain, _ = views(AugmentConfig(size=8), crops)
    assert torch.equal(images, plain)
    assert not any(omega[one.name].any() for one in ALL)


def test_descriptors_of_augmentations_that_are_not_in_the_recipe_are_zero() -> None:
    config = AugmentConfig(size=8)
    params = params_from_uniforms(config, uniforms(4), torch.tensor([[9, 9]]).expand(4, 2))
    layout = DescriptorLayout(("flip", "rotation"))
    omega = describe(params, torch.zeros(4, 3), layout, config)
    assert omega.shape == (4, 3)
    assert not omega[:, 1:].any()
    assert torch.equal(
        layout.select(describe(params, torch.zeros(4, 3), ALL_DESCRIPTORS, config)), omega
    )


def test_settings_survive_json() -> None:
    config = AugmentConfig(size=16, extra=(Rotation(p=0.5, degrees=10), Solarize()))
    values = json.loads(json.dumps(config.to_dict()))
    assert values["rotation"] == {"p": 0.5, "degrees": 10, "padding": "zeros"}
    assert "solarize" not in values  # p is 0, and all else as by default
    assert Rotation.from_dict(values["rotation"]) == Rotation(p=0.5, degrees=10)
    off = Solarize(threshold=0.3)  # on in a single view, perhaps
    values = json.loads(json.dumps(AugmentConfig(extra=(off,)).to_dict()))
    assert Solarize.from_dict(values["solarize"]) == off
    plain = AugmentConfig()
    expected = json.loads(json.dumps(dataclasses.asdict(plain)))
    del expected["extra"]
    assert plain.to_dict() == expected
    with pytest.raises(ConfigError, match="no settings speed; it has degrees, p, padding"):
        Rotation.from_dict({"speed": 1})
    with pytest.raises(ConfigError, match=r"augment\.rotation must be a mapping .*, got 3\."):
        Rotation.from_dict(3)
    with pytest.raises(UnknownNameError, match=r"'gain'.*must be registered"):
        find_augmentation("gain")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((Rotation(), Rotation(p=1)), "has the name 'rotation', which"),
        ((3,), "extra must be Augmentation, got 3"),
    ],
)
def test_bad_extra(extra: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(extra=extra)


def test_bad_settings_name_their_flag() -> None:
    with pytest.raises(ConfigError, match=r"augment.rotation.degrees must be .* got 200"):
        Rotation(degrees=200)
    with pytest.raises(ConfigError, match=r"augment.solarize.p must be .* got 2"):
        Solarize(p=2)
