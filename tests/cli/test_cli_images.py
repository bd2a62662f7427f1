"""The commands that read images: `features`, `demo` and `explore`."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import image_folder, make_image
from one_error import fails_with
from PIL import Image

import cassle_zoo
from cassle_zoo.cli.main import build_parser, main
from cassle_zoo.features.gallery import SAMPLES, _queries
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.zoo.registry import make_config

MODEL = "resnet18_cassle_simclr.emoji64"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained model in a folder, as a name for the command line."""
    spec = cassle_zoo.model_info(MODEL)
    backbone = cassle_zoo.create_model(MODEL)
    config = make_config(spec, backbone, projector=None, training={})
    folder = tmp_path_factory.mktemp("model") / "resnet18"
    save_model_folder(folder, config=config, backbone_state=backbone.state_dict(), projector=None)
    return f"local-dir:{folder}"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images", ["a.png", "b.png"])


def test_features(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "features.npz"
    assert main(["features", model, str(images), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: 2 images x 512 features\n"
    loaded = cassle_zoo.load_features(output)
    assert [Path(source).name for source in loaded.sources] == ["a.png", "b.png"]
    assert not loaded.features[0].equal(loaded.features[1])


def test_features_leave_out_what_is_no_image(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = images / "broken.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    output = tmp_path / "features.safetensors"
    assert main(["features", model, str(images), "-o", str(output), "--batch-size", "1"]) == 1
    assert f"left out {bad}: " in capsys.readouterr().err
    assert len(cassle_zoo.load_features(output)) == 2


def test_warnings_are_one_line(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = np.arange(28 * 20, dtype=np.uint16).reshape(20, 28)
    Image.fromarray(dark).save(images / "dark.png")
    output = ["-o", str(tmp_path / "page.html")]
    assert main(["explore", str(images), "--model", model, *output]) == 0
    said = capsys.readouterr().err
    assert "cassle-zoo: warning: a 16-bit image uses less than a sixteenth" in said
    assert "UserWarning" not in said


def test_images_within_the_limit_of_pixels_are_no_warning(
    model: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 28 * 20 // 2)
    assert main(["features", model, str(images), "-o", str(tmp_path / "o.npz")]) == 0
    assert "Image size" not in capsys.readouterr().err


def test_demo_on_the_sample_images(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", "--model", model, "-o", str(folder)]) == 0
    printed = capsys.readouterr().out
    for name in ("neighbours.png", "neighbours.html", "features.safetensors"):
        assert str(folder / name) in printed
    with Image.open(folder / "neighbours.png") as sheet:
        assert sheet.width > 500
        assert sheet.height > 1000
    samples = sorted(SAMPLES.glob("*.png"))
    page = (folder / "neighbours.html").read_text("utf-8")
    assert all(sample.stem in page for sample in samples)
    assert len(cassle_zoo.load_features(folder / "features.safetensors")) == len(samples)


def test_demo_on_own_images(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "notes.png").write_text("no image")
    folder = tmp_path / "demo"
    assert main(["demo", str(images), "--model", model, "-o", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 images")
    assert "notes.png" in err


def test_demo_takes_addresses() -> None:
    arguments = build_parser().parse_args(["demo", "s3://bucket/photos"])
    assert arguments.paths == ["s3://bucket/photos"]


def test_demo_needs_two_images(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["demo", str(images / "a.png"), "--model", model, "-o", str(tmp_path / "demo")]
    assert "two images" in fails_with(lambda: main(args), capsys)


def test_demo_of_two_models(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    for seed in range(22):
        make_image(100 + seed).save(images / f"{seed}.png")
    args = ["demo", "--models", model, "resnet18_simclr", str(images), "-o", str(folder)]
    assert main(args) == 0
    assert f"24 images through {model} and resnet18_simclr" in capsys.readouterr().out
    page = (folder / "neighbours.html").read_text("utf-8")
    headings = re.findall("<h3>(.*?)</h3>", page.replace("<wbr>", ""))
    names = (model, "resnet18_simclr")
    expected = [f"{name}, {what}" for what in ("whitened", "raw") for name in names]
    assert headings == expected * 24
    assert page.count("whitened to 8 principal components, fitted to the images shown") == 1
    assert page.count("whitened to 128 principal components, as its folder says") == 1
    stored = re.search('id="images">(.*?)</script>', page)
    assert stored
    assert len(json.loads(stored[1])) == 24


def test_demo_shows_first_where_the_models_differ() -> None:
    def ranking(*rows: list[int]) -> tuple[str, torch.Tensor, torch.Tensor]:
        return "title", torch.zeros(len(rows), 3), torch.tensor(rows)

    first = ranking([1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2])
    second = ranking([1, 2, 3], [2, 3, 0], [0, 3, 1], [4, 5, 6])
    assert _queries([first, second], 4) == [3, 1, 2, 0]
    assert _queries([first, second], 2) == [3, 1]
    assert _queries([first], 2) == [0, 2]
    third = ranking([1, 2, 3], [2, 3, 0], [4, 5, 6], [4, 5, 6])
    assert _queries([first, second, third], 4) == [2, 3, 1, 0]


def test_explore(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "notes.png").write_text("no image")
    output = tmp_path / "page.html"
    assert main(["explore", str(images), "--model", model, "-o", str(output)]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"2 images: Features of {model}"  # which has no projector
    assert "notes.png" in err
    assert "a.png" in output.read_text("utf-8")


@pytest.mark.slow
def test_explore_serves_until_interrupted(model: str, images: Path) -> None:
    arguments = ["explore", str(images), "--model", model, "--serve"]
    # Shells start processes in the background with the signal ignored, which children inherit.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from cassle_zoo.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(2)]
            address = re.search(r"http://127\.0\.0\.1:\d+/", lines[1])
            assert address
            with urllib.request.urlopen(address[0], timeout=20) as answer:
                assert b"a.png" in answer.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
