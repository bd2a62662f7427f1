"""Images of other numbers of channels than three, and of more than 8 bits."""

import sys
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from builders import make_image, tiff
from PIL import Image
from small_models import make_model
from torch import nn

from cassle_zoo.cli.main import main
from cassle_zoo.common import bands
from cassle_zoo.common.bands import ToBands
from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.common.images import UnreadableImageError, to_rgb
from cassle_zoo.features.explorer.page import explore
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.gallery import run_demo
from cassle_zoo.features.transform import eval_transform

PIXELS = np.random.default_rng(0).integers(0, 65536, (40, 32, 5), dtype=np.uint16)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make_model(in_chans=5, pretrained_cfg_overlay=config()).eval()


def config() -> dict[str, Any]:
    statistics = {"mean": (0.1, 0.2, 0.3, 0.4, 0.5), "std": (0.5, 0.4, 0.3, 0.2, 0.1)}
    return {"input_size": (5, 32, 32), "crop_pct": 1.0, **statistics}


def test_all_forms_of_an_image_agree(model: nn.Module, tmp_path: Path) -> None:
    planes = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
    (tmp_path / "pages.tif").write_bytes(tiff(planes))
    inputs = [
        PIXELS,
        PIXELS.astype(">u2"),
        PIXELS / 65535,
        torch.from_numpy(planes),
        torch.from_numpy(planes / np.float32(65535)),
        tiff(PIXELS, photometric="minisblack", planarconfig="contig"),
        tiff(planes, photometric="minisblack", planarconfig="separate"),
        tiff(PIXELS, photometric="minisblack", planarconfig="contig", byteorder=">"),
        tmp_path / "pages.tif",
        tmp_path,
    ]
    found = extract_features(model, inputs, num_workers=1)
    assert len(found) == len(inputs)
    first = found.features[:1].expand(len(inputs), -1)
    torch.testing.assert_close(found.features, first, atol=1e-5, rtol=1e-5)


def test_bands_keep_their_order_and_statistics(model: nn.Module) -> None:
    flat = np.zeros((32, 32, 5), np.uint8)
    flat[:] = [0, 51, 102, 153, 204]
    ready = eval_transform(model)(flat)
    mean, std = (torch.tensor(config()[key]) for key in ("mean", "std"))
    expected = (torch.tensor([0, 0.2, 0.4, 0.6, 0.8]) - mean) / std
    torch.testing.assert_close(ready, expected[:, None, None].expand(5, 32, 32))


def test_explore_and_demo_show_images_of_the_models_bands(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.roll(PIXELS, number, axis=0))
    inputs = sorted(tmp_path.glob("*.npy"))
    read = Mock(side_effect=bands._read)
    monkeypatch.setattr(bands, "_read", read)
    assert explore(inputs, model).images == read.call_count == 3
    outputs = run_demo(model, tmp_path / "demo", inputs)
    assert (outputs.images, outputs.skipped) == (3, [])


def test_models_of_one_channel_take_numpy_files(tmp_path: Path) -> None:
    grey = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.2,)}
    model = make_model(in_chans=1, pretrained_cfg_overlay=grey).eval()
    inputs = [tmp_path / f"{number}.npy" for number in range(3)]
    for number, file in enumerate(inputs):
        np.save(file, PIXELS[None, ..., number] if number == 2 else PIXELS[..., number])
    found = extract_features(model, inputs)
    expected = extract_features(model, [PIXELS[..., number] for number in range(3)])
    torch.testing.assert_close(found.features, expected.features, atol=2e-2, rtol=2e-2)
    assert explore(inputs, model).images == 3
    outputs = run_demo(model, tmp_path / "demo", inputs)
    assert (outputs.images, outputs.skipped) == (3, [])
    with pytest.raises(DataError, match=r"1\.npy': not an image"):
        extract_features(make_model(), inputs)


def test_other_bands_are_refused_or_left_out(model: nn.Module, tmp_path: Path) -> None:
    make_image().save(tmp_path / "rgb.png")
    (tmp_path / "broken.tif").write_bytes(tiff(PIXELS)[:50])
    found = extract_features(model, [PIXELS, tmp_path])
    assert len(found) == 1
    assert "5 channels, but the image is (34, 40, 3)" in found.skipped[1].reason
    with pytest.raises(ConfigError, match=r"takes 5 channels.*\(5, 40, 32\).*\(H, W, 5\)"):
        extract_features(model, PIXELS.transpose(2, 0, 1))
    with pytest.raises(ConfigError, match="NoneType is no image"):
        ToBands(5)(None)
    with pytest.raises(DataError, match="int64"):
        extract_features(model, PIXELS.astype(np.int64))
    with pytest.raises(DataError, match="not finite"):
        extract_features(model, np.full((4, 4, 5), np.nan))
    with pytest.raises(UnreadableImageError, match=r"from 0 to 7; expected 0 to 1.*--value-range"):
        ToBands(5)(np.full((4, 4, 5), 7.0) * np.arange(2)[:, None, None].repeat(2, 0))


def test_four_channels_of_a_png(tmp_path: Path) -> None:
    rgb = {"input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}
    model = make_model(in_chans=4, pretrained_cfg_overlay=rgb).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="4 channels, but its pretrained_cfg has the mean"):
        found = extract_features(model, [tmp_path, pixels, Image.fromarray(pixels, "RGBA")])
    assert torch.equal(found.features, found.features[:1].expand(3, -1))


def test_tifffile_is_named_if_missing(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tiff(PIXELS)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingDependencyError, match=r"cassle-zoo\[tiff\]"):
        extract_features(model, content)


def deep(most: int) -> Image.Image:
    return Image.fromarray(np.linspace(0, most, 256).astype(np.uint16).reshape(16, 16))


def test_dim_16_bit_images_warn_unless_a_range_is_given() -> None:
    with pytest.warns(UserWarning, match="less than a sixteenth"):
        assert np.asarray(to_rgb(deep(4095))).max() == 16
    with pytest.warns(UserWarning, match="less than a sixteenth"):
        extract_features(make_model(), np.asarray(deep(1023)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(to_rgb(deep(4096))).max() == 16
        assert np.asarray(to_rgb(deep(4095), (0, 4095))).max() == 255
        found = np.asarray(to_rgb(deep(4095), (1024, 2048)))
        assert (found.min(), found.max()) == (0, 255)
        to_rgb(Image.fromarray(np.full((4, 4), 9, np.uint16)))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_range_reaches_files_arrays_and_workers(tmp_path: Path, workers: int) -> None:
    deep(4095).save(tmp_path / "a.png")
    stretched = np.rint(np.asarray(deep(4095)) / 4095 * 255).astype(np.uint8)
    inputs = [tmp_path / "a.png", np.asarray(deep(4095)), np.asarray(deep(4095)) * 1.0]
    found = extract_features(make_model(), inputs, value_range=(0, 4095), num_workers=workers)
    expected = extract_features(make_model(), stretched).features
    assert torch.equal(found.features, expected.expand(3, -1))
    model = make_model(in_chans=5, pretrained_cfg_overlay=config())
    twelve = extract_features(model, PIXELS // 16, value_range=(0, 4095))
    sixteen = extract_features(model, PIXELS // 16 * 16 / 65520)
    torch.testing.assert_close(twelve.features, sixteen.features, atol=1e-5, rtol=1e-5)


def test_range_and_dtype_on_the_command_line(tmp_path: Path) -> None:
    deep(4095).save(tmp_path / "a.png")
    written: set[str] = set()
    for options in ("0 4095", "0 2048", "0 4095 --dtype float16"):
        argv = ["features", "resnet18_cassle_simclr.emoji64", str(tmp_path / "a.png")]
        out = tmp_path / f"{len(written)}.csv"
        assert main([*argv, "-o", str(out), "--value-range", *options.split()]) == 0
        written.add(out.read_text())
    assert len(written) == 3
