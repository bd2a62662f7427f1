import pickle
from typing import Any

import pytest
import torch
from builders import make_image
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from cassle_zoo import DescribedViews
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.errors import ConfigError, DataError, UnknownNameError

PLAIN = AugmentConfig(
    size=16, crop_scale=(1, 1), crop_ratio=(1, 1), flip_p=0, jitter_p=0, grayscale_p=0, blur_p=0
)


def test_views_and_omegas() -> None:
    views = DescribedViews(config=AugmentConfig(size=16), descriptors=("flip", "crop"), views=3)
    images, omegas = views(make_image())
    assert [image.shape for image in images] == [(3, 16, 16)] * 3
    assert [omega.shape for omega in omegas] == [(5,)] * 3
    assert views.layout.names == ("crop", "flip")
    assert not torch.equal(images[0], images[1])


def test_a_view_is_what_its_omega_says() -> None:
    [image], [omega] = DescribedViews(config=PLAIN, views=1)(make_image(size=(16, 16)))
    pixels = pil_to_tensor(make_image(size=(16, 16))) / 255
    mean, std = torch.tensor(PLAIN.mean).view(3, 1, 1), torch.tensor(PLAIN.std).view(3, 1, 1)
    torch.testing.assert_close(image, (pixels - mean) / std)
    expected = torch.zeros(13)
    expected[8:12] = torch.tensor([0.5, 0.5, 1, 1])
    torch.testing.assert_close(omega, expected)
    wide = make_image(size=(26, 16))  # (width, height)
    [image], [omega] = DescribedViews(config=PLAIN, views=1)(wide)
    pixels = pil_to_tensor(wide.crop((5, 0, 21, 16))) / 255
    torch.testing.assert_close(image, (pixels - mean) / std)
    torch.testing.assert_close(omega[8:12], torch.tensor([0.5, 0.5, 1, 16 / 26]))


def test_randomness_is_torchs_or_the_callers() -> None:
    config = AugmentConfig(size=16)
    torch.manual_seed(3)
    first = DescribedViews(config=config)(make_image())
    torch.manual_seed(3)
    second = DescribedViews(config=config)(make_image())
    third = DescribedViews(config=config)(make_image())
    assert torch.equal(first[1][0], second[1][0])
    assert not torch.equal(second[1][0], third[1][0])
    own = [
        DescribedViews(config=config, generator=torch.Generator().manual_seed(5))(make_image())[1][
            0
        ]
        for _ in range(2)
    ]
    assert torch.equal(*own)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches(workers: int) -> None:
    dataset = [make_image(n, (20 + n, 30)) for n in range(8)]
    views = DescribedViews(config=AugmentConfig(size=16))
    batches = list(DataLoader(Mapped(dataset, views), batch_size=4, num_workers=workers))
    for (view1, view2), (omega1, omega2) in batches:
        assert view1.shape == view2.shape == (4, 3, 16, 16)
        assert omega1.shape == omega2.shape == (4, 13)
    omegas = torch.cat([torch.cat(omegas) for _, omegas in batches])
    assert len(omegas.unique(dim=0)) == 16


class Mapped(Dataset[Any]):
    def __init__(self, images: list[Image.Image], views: DescribedViews) -> None:
        self.images = images
        self.views = views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return self.views(self.images[index])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_modes(mode: str) -> None:
    images, _ = DescribedViews(config=AugmentConfig(size=16))(make_image().convert(mode))
    assert images[0].shape == (3, 16, 16)


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="views"):
        DescribedViews(views=0)
    with pytest.raises(ConfigError, match=r"views must be a whole number of at least 1, got 2\.5"):
        DescribedViews(views=2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"config must be AugmentConfig, got \{'size': 64\}"):
        DescribedViews(config={"size": 64})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="generator must be Generator, got 3"):
        DescribedViews(generator=3)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="colour"):
        DescribedViews(descriptors=("colour",))
    for wrong in ("crop", None):
        with pytest.raises(ConfigError, match=f"descriptors must be a tuple, got {wrong!r}"):
            DescribedViews(descriptors=wrong)  # type: ignore[arg-type]


def test_transparent_is_white() -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    white = Image.new("RGB", (16, 16), "white")
    [expected], _ = DescribedViews(config=PLAIN, views=1)(white)
    [found], _ = DescribedViews(config=PLAIN, views=1)(clear)
    assert torch.equal(found, expected)


def test_spawned_workers_get_the_generator() -> None:
    views = DescribedViews(config=AugmentConfig(size=8), generator=torch.Generator().manual_seed(5))
    views(make_image())  # moves the generator on
    workers: dict[str, Any] = {"num_workers": 1, "multiprocessing_context": "spawn"}
    spawned, forked = (
        next(iter(DataLoader(Mapped([make_image()], views), generator=seeds, **kind)))
        for kind in (workers, {**workers, "multiprocessing_context": "fork"})
        for seeds in [torch.Generator().manual_seed(0)]
    )
    assert torch.equal(spawned[1][0], forked[1][0])
    again = pickle.loads(pickle.dumps(views))
    assert torch.equal(again(make_image())[1][0], views(make_image())[1][0])


@pytest.mark.parametrize("given", [None, 5])
def test_workers_and_epochs_draw_their_own_parameters(given: int | None) -> None:
    generator = None if given is None else torch.Generator().manual_seed(given)
    views = DescribedViews(config=AugmentConfig(size=8), views=1, generator=generator)

    def epochs(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        loader = DataLoader(Mapped([make_image()] * 4, views), batch_size=2, num_workers=2)
        return torch.cat([omegas for _ in range(2) for _, [omegas] in loader])

    omegas = epochs(0)
    assert len(omegas.unique(dim=0)) == len(omegas) == 8
    assert torch.equal(epochs(0), omegas)
    if generator is not None:
        generator.manual_seed(6)
        assert not torch.equal(epochs(0), omegas)


def test_images_in_any_form(tmp_path: Any) -> None:
    image = make_image()
    image.save(tmp_path / "a.png")
    pixels = pil_to_tensor(image)
    array = pixels.permute(1, 2, 0).numpy()
    forms = [tmp_path / "a.png", pixels, pixels / 255, array, array.astype(">u2") * 257]
    views = DescribedViews(config=PLAIN, views=1)
    expected = views(image)[0][0]
    assert all(torch.equal(views(form)[0][0], expected) for form in forms)
    with pytest.raises(DataError, match="from 0 to 255; expected 0 to 1"):
        views(pixels.float())
    with pytest.raises(DataError, match=r"Cannot read image '.*gone\.png': No such file"):
        views(tmp_path / "gone.png")
    with pytest.raises(ConfigError, match=r"the image is a dict; expected a path, the bytes"):
        views({"image": image})
