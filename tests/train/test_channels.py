"""Runs on images of 1, 4 and more channels."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from builders import image_folder, write_tar
from PIL import Image
from safetensors.torch import load_file

import cassle_zoo
from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.errors import ConfigError, DataError, ModelFolderError
from cassle_zoo.hub.export import export_run
from cassle_zoo.train.config import DataConfig, TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.dry_run import dry_run
from cassle_zoo.train.loop import train

OFF: dict[str, Any] = {"saturation": 0, "hue": 0, "grayscale_p": 0, "mean": (0.5,), "std": (0.2,)}


def run(config: TrainConfig, channels: int, root: Path) -> TrainConfig:
    return dataclasses.replace(
        config,
        augment=AugmentConfig(size=32, channels=channels, **OFF),
        data=DataConfig(root=str(root), workers=0),
        optim=dataclasses.replace(config.optim, epochs=1),
    )


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """Arrays, TIFFs and RGBA images of four channels."""
    tifffile = pytest.importorskip("tifffile")
    root = tmp_path / "bands"
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (24, 20, 4), dtype=np.uint8)
        path = root / f"class{index % 2}" / f"{index}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index % 3 == 0:
            np.save(path.with_suffix(".npy"), pixels.astype(np.uint16) * 257)
        elif index % 3 == 1:
            tifffile.imwrite(
                path.with_suffix(".tif"), pixels, photometric="minisblack", planarconfig="contig"
            )
        else:
            Image.fromarray(pixels, "RGBA").save(path.with_suffix(".png"))
    return root


@pytest.mark.parametrize("channels", [1, 4])
def test_from_images_to_a_model(
    channels: int, config: TrainConfig, bands: Path, images: Path, tmp_path: Path
) -> None:
    config = run(config, channels, images if channels == 1 else bands)
    assert train(config, tmp_path / "run").finished
    assert "knn_top1" in (tmp_path / "run" / "metrics.csv").read_text("utf-8")
    model = export_run(tmp_path / "run", tmp_path / "model")
    description = json.loads((model / "config.json").read_text("utf-8"))
    assert description["pretrained_cfg"]["input_size"] == [channels, 32, 32]
    assert description["pretrained_cfg"]["mean"] == [0.5] * channels
    name, views = f"local-dir:{model}", torch.rand(2, channels, 32, 32)
    backbone = timm.create_model(name, pretrained=True).eval()
    ours = cassle_zoo.create_model(name, pretrained=True).eval()
    trained = load_file(tmp_path / "run" / "final" / "backbone.safetensors")
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, trained[key].to(value.dtype), rtol=1e-3, atol=1e-5)
    stem = next(module for module in ours.modules() if isinstance(module, torch.nn.Conv2d))
    assert stem.in_channels == channels
    torch.testing.assert_close(backbone(views), ours(views))
    with pytest.raises((ModelFolderError, RuntimeError), match=r"(?i)size mismatch|shape"):
        cassle_zoo.create_model(name, pretrained=True, in_chans=channels + 1)
    if channels == 1:
        found = cassle_zoo.extract_features(ours, images)
        assert found.features.isfinite().all()
        transform = cassle_zoo.eval_transform(ours)
        assert transform(Image.new("RGB", (50, 40), "white")).unique().tolist() == [2.5]
        timms = timm.data.create_transform(**timm.data.resolve_data_config(model=backbone))
        assert timms(Image.new("L", (50, 40), "white")).unique().tolist() == [2.5]


def test_a_tar_is_as_the_folder(bands: Path, tmp_path: Path) -> None:
    content = {str(p.relative_to(bands)): p.read_bytes() for p in bands.rglob("*.*")}
    tar = write_tar(tmp_path / "bands.tar", content)
    folder = open_dataset(DataConfig(root=str(bands)), 4)
    archive = open_dataset(DataConfig(root=str(tar)), 4)
    assert len(folder) == len(archive) == 12
    found = {archive.filename(index): archive[index][0] for index in range(12)}
    for index in range(12):
        assert np.array_equal(folder[index][0], found[folder.filename(index)])
    assert len(open_dataset(DataConfig(root=str(bands)))) == 8  # arrays are no RGB images


def test_dry_run(config: TrainConfig) -> None:
    data = DataConfig(samples=100)
    config = dataclasses.replace(config, augment=AugmentConfig(size=32, channels=6, **OFF))
    assert dry_run(dataclasses.replace(config, data=data)).steps == 50


def test_images_of_other_channels_are_refused(
    config: TrainConfig, images: Path, bands: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"takes 4 channels, but the image is"):
        train(run(config, 4, images), tmp_path / "run")
    mixed = image_folder(bands / "class0", ["rgb.png"])
    assert mixed.is_dir()
    few = dataclasses.replace(run(config, 4, bands).data, max_bad_fraction=0.1)
    assert train(dataclasses.replace(run(config, 4, bands), data=few), tmp_path / "few").finished
    for dataset in ("emoji64", "wds/any", "torch/stl10"):
        with pytest.raises(DataError, match=f"not from data.dataset '{dataset}', whose images are"):
            open_dataset(DataConfig(root=str(images), dataset=dataset), 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hue": 0.1}, "hue 0.1: images of augment.channels 4.*pass --augment.hue 0"),
        ({"saturation": 0.4, "grayscale_p": 0.2}, "--augment.saturation 0 --augment.grayscale-p 0"),
        ({"mean": (0.1, 0.2, 0.3)}, r"mean must be 4 values, got \(0.1, 0.2, 0.3\), or one for"),
        ({"std": (0.1, 0.2, 0.3)}, "std must be 4 values"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(channels=4, **{**OFF, **settings})


def test_one_value_is_for_all_channels() -> None:
    config = AugmentConfig(channels=4, **OFF)
    assert (config.mean, config.std) == ((0.5,) * 4, (0.2,) * 4)
    assert AugmentConfig(mean=(0.5,)).mean == (0.5, 0.5, 0.5)
