import pickle
from typing import Any

import pytest
import timm
import torch
from builders import make_image
from PIL import Image
from small_models import make_model
from torch import nn

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.transform import eval_transform


def test_very_long_images_do_not_fill_the_memory(model: nn.Module) -> None:
    image = Image.new("RGB", (1, 3_000_000), "red")
    image.paste("blue", (0, 1_499_000, 1, 1_501_000))
    sample = eval_transform(model)(image)
    assert torch.equal(sample, eval_transform(model)(Image.new("RGB", (32, 32), "blue")))


def test_long_images_are_cropped_as_before(model: nn.Module) -> None:
    image = make_image(3, (40, 40 * 20))
    middle = image.crop((0, 40 * 8, 40, 40 * 12))
    assert torch.equal(eval_transform(model)(image), eval_transform(model)(middle))


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_very_long_images_with_a_border(size: tuple[int, int]) -> None:
    config = {"input_size": (3, 32, 48), "crop_mode": "border"}
    model = timm.create_model("resnet10t", pretrained_cfg_overlay=config)
    assert eval_transform(model)(Image.new("RGB", size, "red")).shape == (3, 32, 48)


def test_transform_is_timms(model: nn.Module) -> None:
    config = timm.data.resolve_model_data_config(model)
    expected = timm.data.create_transform(**config, is_training=False)
    transform = pickle.loads(pickle.dumps(eval_transform(model)))
    assert torch.equal(transform(make_image(0)), expected(make_image(0)))
    assert transform(Image.new("RGBA", (9, 9))).max() == 1  # transparent is white


@pytest.mark.parametrize("value_range", [(4095, 0), 4095])
def test_values_that_are_no_range(model: nn.Module, value_range: Any) -> None:
    with pytest.raises(ConfigError, match="LOW < HIGH"):
        eval_transform(model, value_range=value_range)


def test_one_channel() -> None:
    statistics = {"mean": (0.2, 0.3, 0.7), "std": (0.1, 0.2, 0.3)}
    overlay = {"input_size": (3, 32, 32), **statistics}
    model = make_model(in_chans=1, pretrained_cfg_overlay=overlay)
    sample = eval_transform(model)(Image.new("RGB", (50, 40), "white"))
    torch.testing.assert_close(sample, torch.full((1, 32, 32), (1 - 0.4) / 0.2))
    assert extract_features(model, make_image(0)).features.shape == (1, 96)


def test_other_numbers_of_channels_need_a_transform() -> None:
    model = make_model(in_chans=4)
    with pytest.raises(ConfigError, match="4 channels"):
        extract_features(model, make_image(0))
    result = extract_features(model, make_image(0), transform=lambda _: torch.zeros(4, 32, 32))
    assert result.features.shape == (1, 96)


@pytest.mark.parametrize("name", ["tresnet_m", "csatv2"])
def test_models_that_make_channels_of_pixels_take_rgb(name: str) -> None:
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    assert eval_transform(make_model(name))(make_image(0)).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [(48, 48), (32, 48)])
def test_vit_gets_the_size_it_was_built_for(size: tuple[int, int]) -> None:
    model = make_model("test_vit", img_size=size)
    assert eval_transform(model)(make_image(0)).shape == (3, *size)
    assert extract_features(model, make_image(0)).features.shape == (1, 64)
