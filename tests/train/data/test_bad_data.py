"""One folder with everything that goes wrong with images: training and extraction agree on it."""

import dataclasses
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_images import bomb
from builders import make_image
from changes import change
from PIL import Image

from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import DataError
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.features.extract import extract_features
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset

LONG = "ż" * 120 + "🙂.png"
GOOD = (
    *("animated.gif", "cmyk.jpg", "deep.png", "line\nbreak'<b>.png", "sub/plain.png"),
    *("turned.jpg", "wrong_ending.jpg", LONG),
)
BAD = ("bomb.png", "empty.png", "gone.png", "pipe.png", "text.png", "truncated.png")
MODEL = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    image = make_image(size=(36, 40))
    for name in (LONG, "sub/plain.png", "line\nbreak'<b>.png"):
        image.save(root / name)
    image.save(root / "wrong_ending.jpg", "PNG")
    image.convert("CMYK").save(root / "cmyk.jpg")
    Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257).save(root / "deep.png")
    image.save(root / "animated.gif", save_all=True, append_images=[image.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(root / "turned.jpg", exif=exif)
    (root / "bomb.png").write_bytes(bomb())
    (root / "empty.png").touch()
    (root / "gone.png").symlink_to("nowhere")
    os.mkfifo(root / "pipe.png")
    (root / "text.png").write_text("I am a text")
    (root / "truncated.png").write_bytes((root / LONG).read_bytes()[:900])
    (root / "notes.txt").write_text("not meant as an image")
    (root / "sub" / "loop").symlink_to(root)
    (root / "locked").mkdir()
    scandir = os.scandir

    def guarded(path: Path) -> object:
        if Path(path).name == "locked":  # chmod does not keep root out
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return root


def on(config: TrainConfig, root: Path, share: float = 0.05) -> TrainConfig:
    config = change(config, "data", root=str(root), max_bad_fraction=share)
    return change(config, "optim", batch_size=2, epochs=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_extraction_names_what_it_leaves_out(folder: Path, workers: int) -> None:
    result = extract_features(MODEL, folder, num_workers=workers)
    assert result.sources == [str(folder / name) for name in sorted(GOOD)]
    left_out = {Path(skip.source).name: skip.reason for skip in result.skipped}
    assert left_out.keys() == {*BAD, "locked"}
    assert all(left_out.values())


def test_training_names_what_it_leaves_out(
    config: TrainConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = on(config, folder, share=len(BAD) / (len(GOOD) + len(BAD)))
    assert loop.train(run, tmp_path / "run").finished
    said = capsys.readouterr().err
    assert sorted(re.findall(r"image '(.*)' cannot be read", said)) == list(BAD)
    assert f"folder '{folder / 'locked'}' is left out: Permission denied." in said


def test_too_many_bad_images_stop_the_run(
    config: TrainConfig, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"of 14 images cannot be read.*--data\.max-bad-fraction"):
        loop.train(on(config, folder), tmp_path / "run")


def test_bad_images_in_an_archive(
    config: TrainConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for name in ("bomb.png", "empty.png", "text.png", "truncated.png", *GOOD[1:-1]):
            tar.add(folder / name, name)
    assert loop.train(on(config, tmp_path / "images.tar", 0.5), tmp_path / "run").finished
    assert capsys.readouterr().err.count("cannot be read; another one is used instead") == 4


def test_labels_are_folders_and_a_split_is_used(images: Path, config: TrainConfig) -> None:
    opened = open_dataset(config.data)
    assert isinstance(opened, ImageFiles)
    labels = {opened.filename(index): opened[index][1] for index in range(len(opened))}
    assert labels == {f"class{index % 2}/{index:02d}.png": index % 2 for index in range(22)}
    split = open_dataset(dataclasses.replace(config.data, split="class1"))
    assert [split.filename(index) for index in range(2)] == ["01.png", "03.png"]


def test_one_image(config: TrainConfig, folder: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(folder / "turned.jpg", one)
    assert len(extract_features(MODEL, one)) == 1
    with pytest.raises(DataError, match=r"1 images.*batch of 2.*at least 2"):
        loop.train(on(config, one), tmp_path / "run")


def test_command_line_counts_and_lists(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["resnet18_cassle_simclr.emoji64", str(folder), "-o", str(tmp_path / "f.csv")]
    assert main(["features", *arguments]) == 1
    out, err = capsys.readouterr()
    assert f"{len(GOOD)} images x 512 features" in out
    assert all(f"left out {folder / name}: " in err for name in (*BAD, "locked"))
