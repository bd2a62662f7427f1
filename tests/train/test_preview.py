import base64
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from changes import change
from PIL import Image

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.augmentation.descriptors import DescriptorLayout
from cassle_zoo.augmentation.further import Rotation
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.data.view_config import LocalViews, ViewsConfig
from cassle_zoo.train.data.views import make_views
from cassle_zoo.train.main import run_from_cli
from cassle_zoo.train.methods import ConditioningConfig
from cassle_zoo.train.preview import IMAGES, _uri, write_preview

IMAGE = re.compile(r'src="data:image/png;base64,([^"]+)" alt="view (\d)"')


def views_on(page: str) -> list[torch.Tensor]:
    found = (io.BytesIO(base64.b64decode(data)) for data, _ in IMAGE.findall(page))
    return [torch.frombuffer(bytearray(Image.open(f).tobytes()), dtype=torch.uint8) for f in found]


def test_the_views_are_those_of_the_first_epoch(config: TrainConfig, tmp_path: Path) -> None:
    page = tmp_path / "views.html"
    config = change(config, "optim", batch_size=22)
    assert write_preview(config, page) == IMAGES
    text = page.read_text()
    (batch,) = batches(config, open_dataset(config.data), 0, 1)
    layout = DescriptorLayout(())
    views = make_views(batch, config.augment, layout, torch.device("cpu"))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (config.augment.mean, config.augment.std))
    trained_on = [
        (view * std + mean).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).flatten()
        for view in torch.cat(views.images)
    ]
    shown = views_on(text)
    assert len(shown) == 2 * IMAGES
    assert all(any(torch.equal(view, other) for other in trained_on) for view in shown)
    assert "class0/00.png" in text


def test_very_long_images_are_shown(config: TrainConfig, tmp_path: Path) -> None:
    for name, size in (("wide", (8000, 12)), ("tall", (12, 8000))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    assert write_preview(change(config, "data", root=str(tmp_path)), tmp_path / "views.html") == 2


def test_images_are_shown_without_their_colour_profiles() -> None:
    image = Image.new("RGB", (8, 8))
    image.info["icc_profile"] = b"profile"
    data = base64.b64decode(_uri(image).partition(",")[2])
    assert "icc_profile" not in Image.open(io.BytesIO(data)).info


def test_what_the_projector_gets(config: TrainConfig, tmp_path: Path) -> None:
    page = tmp_path / "views.html"
    conditioning = ConditioningConfig(descriptors=("blur", "flip"))
    write_preview(dataclasses.replace(config, conditioning=conditioning), page)
    text = page.read_text()
    assert "conditioned on blur, flip (2 numbers)" in text
    unseen = set(re.findall(r'<tr class="unseen"><td>(\w+)', text))
    assert unseen == {"color", "color_diff", "crop", "grayscale"}
    assert "-0.000" not in text
    write_preview(dataclasses.replace(config, conditioning=ConditioningConfig(mode="none")), page)
    assert "not conditioned" in page.read_text()


def test_an_unreadable_image_is_left_out(config: TrainConfig, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "bad.png").write_bytes(b"no image")
    config = change(config, "data", root=str(own))
    with pytest.raises(DataError, match="can be read"):
        write_preview(config, tmp_path / "views.html")
    (own / "<b>.png").write_bytes((images / "class0/00.png").read_bytes())
    assert write_preview(config, tmp_path / "views.html") == 1
    assert "&lt;b&gt;" in (tmp_path / "views.html").read_text()
    assert "<p>1 image, and" in (tmp_path / "views.html").read_text()


def test_bad_places(config: TrainConfig, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing" / "views.html"):
        with pytest.raises(ConfigError, match="--preview"):
            write_preview(config, place)
    with pytest.raises(ConfigError, match="--data PATH"):
        write_preview(change(config, "data", root=""), tmp_path / "views.html")


def test_omega_of_an_augmentation_that_is_off_is_refused_as_in_training(
    config: TrainConfig, tmp_path: Path
) -> None:
    conditioning = ConditioningConfig(descriptors=("crop", "rotation"))
    config = dataclasses.replace(config, conditioning=conditioning)
    with pytest.raises(ConfigError, match="has rotation, but no view is augmented so"):
        write_preview(config, tmp_path / "views.html")


def test_command(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "views.html"
    argv = ["resnet18_cassle_simclr.emoji64", "--data.dataset", "", "--data", str(images)]
    assert run_from_cli([*argv, "--preview", str(page)]) == 0
    assert "12 images" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["views.html"]


@pytest.mark.parametrize("channels", [1, 5])
def test_further_augmentations_and_other_channels(
    channels: int, config: TrainConfig, tmp_path: Path
) -> None:
    for index in range(4):
        np.save(tmp_path / f"{index}.npy", np.random.default_rng(index).random((20, 30, channels)))
    augment = AugmentConfig(
        size=16, channels=channels, saturation=0, hue=0, grayscale_p=0, mean=(0.5,), std=(0.5,),
        extra=(Rotation(p=1, degrees=90),),
    )  # fmt: skip
    conditioning = ConditioningConfig(descriptors=("crop", "rotation"))
    config = dataclasses.replace(config, augment=augment, conditioning=conditioning)
    page = tmp_path / "views.html"
    assert write_preview(change(config, "data", root=str(tmp_path)), page) == 4
    text = page.read_text()
    assert "conditioned on crop, rotation (6 numbers)" in text
    assert Rotation.columns[0] in text
    assert len(views_on(text)) == 8


def test_local_crops_are_shown_too(config: TrainConfig, tmp_path: Path) -> None:
    page = tmp_path / "views.html"
    views = ViewsConfig(count=3, local=LocalViews(count=2, size=16))
    assert write_preview(dataclasses.replace(config, views=views), page) == IMAGES
    assert "views of 32 × 32\npixels (the last 2: 16 × 16) that" in page.read_text("utf-8")
    shown = views_on(page.read_text())
    assert [len(view) for view in shown] == [*[3 * 32 * 32] * 3, *[3 * 16 * 16] * 2] * IMAGES
