from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny_emoji64 import make_drawing
from torchvision import transforms

from cassle_zoo.augmentation.augment import AugmentConfig, apply_params, describe
from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS
from cassle_zoo.common.errors import ConfigError, DataError, UnknownNameError
from cassle_zoo.eval.augmented import views
from cassle_zoo.eval.augmented.views import make_view
from cassle_zoo.eval.base import Compute

RECIPE = AugmentConfig(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))


IMAGES = [(make_drawing(seed), None) for seed in range(6)]
INDICES = torch.tensor([4, 1, 5])
UNIFORMS = views.image_uniforms(INDICES, seed=3)


def context_of(images, **compute):
    return SimpleNamespace(data=SimpleNamespace(images=images), compute=Compute(**compute))


def rendered(view, indices=INDICES, batch_size=2):
    uniforms = views.image_uniforms(indices, seed=3)
    images, omegas, start = [], [], 0
    context = context_of(IMAGES, batch_size=batch_size)
    for crops, source in views.read_crops(context, indices, uniforms, [view]):
        rows = uniforms[start : start + len(crops)]
        start += len(crops)
        image, omega = view.render(crops[:, 0], rows, source)
        images.append(image)
        omegas.append(omega)
    return torch.cat(images), torch.cat(omegas)


def test_the_original_is_the_image():
    images, omega = rendered(make_view(views.ORIGINAL, RECIPE))
    norm = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.ToTensor(),
            transforms.Normalize(RECIPE.mean, RECIPE.std),
        ]
    )
    expected = torch.stack([norm(IMAGES[i][0]) for i in INDICES])
    torch.testing.assert_close(images, expected, atol=2e-2, rtol=0)
    columns = ALL_DESCRIPTORS.slices()
    assert omega[:, columns["crop"]].tolist() == [[0.5, 0.5, 1, 1]] * 3
    omega[:, columns["crop"]] = 0
    assert not omega.any()


def test_views_depend_on_the_seed():
    assert not (views.image_uniforms(INDICES, seed=4) == UNIFORMS).any()


@pytest.mark.parametrize("name", [*views.AUGMENTATIONS, views.RECIPE])
def test_a_view_depends_on_its_image_only(name):
    view = make_view(name, RECIPE)
    images, omega = rendered(view)
    backwards, omega_backwards = rendered(view, INDICES.flip(0), batch_size=3)
    assert torch.equal(images, backwards.flip(0))
    assert torch.equal(omega, omega_backwards.flip(0))
    original, clear = rendered(make_view(views.ORIGINAL, RECIPE))
    assert not torch.equal(images, original)
    assert not torch.equal(omega, clear)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_strength_is_exact(strength):
    source = torch.tensor([[100, 100]] * 3)
    color = make_view("color", RECIPE, strength).params(UNIFORMS, source).factors
    expected = strength * torch.tensor([0.4, 0.4, 0.4, 0.1])
    centre = torch.tensor([1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close((color - centre).abs(), expected.expand(3, 4))
    crops = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    _, omega = make_view("color", RECIPE, strength).render(crops, UNIFORMS, source)
    columns = ALL_DESCRIPTORS.slices()["color"]
    torch.testing.assert_close(omega[:, columns].abs(), torch.full((3, 4), strength / 2))
    hue = make_view("hue", RECIPE, strength).params(UNIFORMS, source).factors
    assert torch.equal(hue[:, 3], color[:, 3])
    assert hue[:, :3].eq(1).all()
    blur = make_view("blur", RECIPE, strength)
    assert blur.params(UNIFORMS, source).sigma.tolist() == pytest.approx([2 * strength] * 3)
    box = make_view("crop", RECIPE, strength).params(UNIFORMS, source).box
    area = (box[:, 2] * box[:, 3] / 1e4).tolist()
    assert area == pytest.approx([1 - 0.8 * strength] * 3, abs=0.01)
    assert (blur.value, make_view("crop", RECIPE, strength).value) == (
        2 * strength,
        pytest.approx(1 - 0.8 * strength),
    )


def test_pixels_and_omega_are_those_of_training():
    view = make_view(views.RECIPE, RECIPE)
    source = torch.tensor([[64, 64]] * 3)
    crops = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    params = view.params(UNIFORMS, source)
    expected, color_diff = apply_params(crops, params, RECIPE)
    images, omega = view.render(crops, UNIFORMS, source)
    assert torch.equal(images, expected)
    assert torch.equal(omega, describe(params, color_diff, ALL_DESCRIPTORS, RECIPE))


def test_recipe_of_a_transform():
    size = (40, 30)
    steps = [transforms.Resize((24, 24)), transforms.ToTensor()]
    norm = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = views.input_recipe(transforms.Compose([*steps, norm]), size)
    assert found == AugmentConfig(size=24)
    plain = views.input_recipe(transforms.ToTensor(), (30, 30))
    assert (plain.size, plain.mean, plain.std) == (30, (0, 0, 0), (1, 1, 1))
    with pytest.raises(ConfigError, match="3x30x40"):
        views.input_recipe(transforms.ToTensor(), size)
    with pytest.raises(ConfigError, match="white brighter"):
        views.input_recipe(lambda image: -transforms.ToTensor()(image), (8, 8))


def test_names_and_strengths():
    with pytest.raises(UnknownNameError, match="'colour'"):
        make_view("colour", RECIPE)
    with pytest.raises(ConfigError, match="strength must be"):
        make_view("crop", RECIPE, 0)


def test_derangement():
    for step in range(1, 10):
        other = views.derangement(10, seed=1, steps=step)
        assert other.sort().values.tolist() == list(range(10))
        assert not (other == torch.arange(10)).any()
    assert views.derangement(10, seed=1, steps=0).tolist() == list(range(10))


def test_images_that_are_not_square():
    wide = [(Image.new("RGB", (60, 20)), None)]
    view = make_view(views.ORIGINAL, RECIPE)
    uniforms = views.image_uniforms(torch.tensor([0]), 0)
    [(crops, source)] = views.read_crops(context_of(wide), torch.tensor([0]), uniforms, [view])
    assert crops.shape == (1, 1, 3, 32, 32)
    assert view.params(uniforms, source).box.tolist() == [[0, 20, 20, 20]]


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_cannot_be_read(workers):
    view = make_view(views.ORIGINAL, RECIPE)
    empty = [(Image.new("RGB", (0, 0)), None)]
    uniforms = views.image_uniforms(torch.tensor([0]), 0)
    context = context_of(empty, workers=workers)
    crops = views.read_crops(context, torch.tensor([0]), uniforms, [view])
    with pytest.raises(DataError, match=r"^Cannot read image .*is empty: 0x0 pixels.$"):
        list(crops)
