"""Views of large photographs: decoded smaller, cut at the same place, described alike."""

import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from changes import change
from PIL import Image

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.augmentation.crop import N_CROP_UNIFORMS, crop_box, reduction_for_crops, scale_boxes
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.records import SETTINGS_FILE
from cassle_zoo.train import loop
from cassle_zoo.train.config import DataConfig, TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import Crops, MapViews, batches
from cassle_zoo.train.run.monitor import Monitor

WIDTH, HEIGHT = 900, 700


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    for index in range(8):
        planes = np.stack([x, y, (np.sin(9 * x + index) * np.cos(9 * y) + 1) / 2], -1)
        image = Image.fromarray((255 * planes).astype(np.uint8))
        image.save(folder / f"{index}.jpg", quality=95)
    return folder


def on(config: TrainConfig, data: Path, decode: Any) -> TrainConfig:
    return change(config, "data", root=str(data), decode=decode)


def packed(photos: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for file in sorted(photos.iterdir()):
            tar.add(file, file.name)
    return path


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_the_check_of_the_features_decodes_smaller_too(
    config: TrainConfig, photos: Path, tmp_path: Path, kind: str
) -> None:
    data = photos if kind == "folder" else packed(photos, tmp_path / "a.tar")
    dataset = open_dataset(DataConfig(root=str(data)))
    read: Any = (
        zip(*Monitor(dataset, config.augment, 8, fast=fast)._spread(), strict=True)
        for fast in (True, False)
    )
    (fast, labels), (exact, same) = read
    assert {image.size for image in exact} == {(WIDTH, HEIGHT)}
    assert max(image.width for image in fast) < WIDTH / 4
    assert labels == same == tuple(dataset[index][1] for index in range(8))


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_views_differ_by_little_and_omega_not_at_all(
    config: TrainConfig, photos: Path, tmp_path: Path, kind: str
) -> None:
    data = photos if kind == "folder" else packed(photos, tmp_path / "a.tar")
    read = {}
    for decode in ("fast", "exact", None):
        own = on(config, data, decode)
        read[decode] = list(batches(own, open_dataset(own.data), 0, 4))
    for fast, exact, default in zip(*(read[k] for k in ("fast", "exact", None)), strict=True):
        assert torch.equal(fast["uniforms"], exact["uniforms"])
        assert fast["source"].tolist() == exact["source"].tolist() == [[HEIGHT, WIDTH]] * 4
        off = (fast["crops"].float() - exact["crops"].float()).abs()
        assert 0 < off.mean() < 3  # half a pixel of the view at most, of 255 levels
        assert torch.equal(fast["crops"], default["crops"])


def test_decoding_is_in_fact_reduced(photos: Path) -> None:
    asked = []
    augment = AugmentConfig(size=32)
    crops = Crops(augment, seed=0, fast=True)

    class Spy:
        def __len__(self) -> int:
            return 1

        def encoded(self, index: int) -> Path:
            asked.append(index)
            return photos / "0.jpg"

        def __getitem__(self, index: int) -> None:
            raise AssertionError("decoded in full")

    assert MapViews(Spy(), crops)[0, 0]["source"].tolist() == [HEIGHT, WIDTH]
    assert asked == [0]


@pytest.mark.parametrize("size", [(4032, 3024), (3024, 4032), (900, 700), (5000, 120), (300, 300)])
def test_every_crop_still_covers_the_view(size: tuple[int, int]) -> None:
    width, height = size
    augment = AugmentConfig(size=96)
    scale, ratio = augment.crop_scale, augment.crop_ratio
    most = reduction_for_crops(width, height, 96, scale, ratio)
    generator = torch.Generator().manual_seed(0)
    for row in torch.rand(500, N_CROP_UNIFORMS, generator=generator).tolist():
        _, _, h, w = crop_box(height, width, row, scale, ratio)
        # A crop's sides are rounded to whole pixels.
        assert min(h, w) + 1 >= 96 * most
    smallest = math.sqrt(width * height * scale[0] * ratio[0])
    assert most == pytest.approx(min(smallest, width, height) / 96)


def test_boxes_stay_inside_and_are_never_empty() -> None:
    image = Image.new("RGB", (101, 76))
    boxes = [(0, 0, 603, 801), (602, 800, 1, 1), (0, 0, 1, 1), (301, 400, 302, 401)]
    for top, left, height, width in scale_boxes(boxes, (801, 603), image):
        assert height >= 1
        assert width >= 1
        assert 0 <= top <= 76 - height
        assert 0 <= left <= 101 - width
    assert scale_boxes(boxes[:1], (801, 603), image) == [(0, 0, 76, 101)]


def test_a_run_continues_as_it_decoded_before(
    config: TrainConfig, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    loop.train(on(config, photos, None), out)
    stored = json.loads((out / SETTINGS_FILE).read_text())
    assert stored["data"]["decode"] == "fast"
    with pytest.raises(ConfigError, match=r"data\.decode: 'fast' there, 'exact' now"):
        loop.train(on(config, photos, "exact"), out)
    # One from before the setting decoded in full, and still does.
    del stored["data"]["decode"]
    (out / SETTINGS_FILE).write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=r"data\.decode: 'exact' there, 'fast' now"):
        loop.train(on(config, photos, "fast"), out)
    for _ in range(2):
        loop.train(on(config, photos, None), out)
        assert json.loads((out / SETTINGS_FILE).read_text())["data"]["decode"] == "exact"
