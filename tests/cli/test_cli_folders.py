"""`cassle-zoo features` into a folder, its guards, and the exit statuses of all commands."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import image_folder
from one_error import fails_with

import cassle_zoo
from cassle_zoo.cli.main import main
from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.features import files
from cassle_zoo.features.extract import Extractor

MODEL = "resnet18_cassle_simclr.emoji64"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = image_folder(tmp_path_factory.mktemp("images"), [f"{i}.png" for i in range(5)])
    (folder / "bad.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be loaded or computed."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("it was found too late")

    monkeypatch.setattr(Extractor, "__init__", fail)


def features(*words: Any) -> int:
    return main(["features", MODEL, *map(str, words)])


def test_a_folder_says_what_happened(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert features(images, "-o", f"{out}/", "--part-images", 2, "--batch-size", 2) == 1
    shown = capsys.readouterr()
    assert shown.out == f"{out}: 5 images\n"
    assert shown.err == f"cassle-zoo: left out 1: {out / 'skipped.csv'} says what and why\n"
    assert "bad.png" in (out / "skipped.csv").read_text()
    assert len(cassle_zoo.load_features(out)) == 5
    assert features(images, "-o", out) == 1  # without a slash, since it exists
    capsys.readouterr()
    line = fails_with(lambda: features(images, "-o", out, "--precision", "bf16"), capsys)
    assert "settings.precision: 'fp32' there, 'bf16' now" in line


@pytest.mark.parametrize("part", ["0/2", "3/2", "x", "1/", "1/2/3", "-1/2"])
def test_parts_that_there_are_not(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    line = fails_with(lambda: features(images, "-o", f"{tmp_path}/", f"--part={part}"), capsys)
    assert f"--part {part}: expected I/N" in line


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("output", ["file/a.npz", "file/below/a.npz", "file/out/", "/proc/a.npz"])
def test_outputs_that_cannot_be_written_are_found_first(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    (tmp_path / "file").write_text("")
    target = output if output.startswith("/") else f"{tmp_path}/{output}"
    assert "nothing can be written" in fails_with(lambda: features(images, "-o", target), capsys)


@pytest.mark.usefixtures("no_model")
def test_too_many_names_are_found_first(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "_MAX_METADATA", 50)
    output = tmp_path / "a.safetensors"
    assert "-o FOLDER/" in fails_with(lambda: features(images, "-o", output), capsys)


def test_out_of_memory_halves_the_batch(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    compute, limit = Extractor.compute, [2]

    def limited(self: Extractor, ready: Any) -> Any:
        sizes.append(len(ready))
        if len(ready) > limit[0]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return compute(self, ready)

    monkeypatch.setattr(Extractor, "compute", limited)
    assert features(images, "-o", tmp_path / "a.npz") == 1
    assert sizes == [5, 2, 2, 1]
    assert "warning: out of memory with batches of 5" in capsys.readouterr().err
    assert len(cassle_zoo.load_features(tmp_path / "a.npz")) == 5
    limit[0] = 0
    assert features(images, "-o", tmp_path / "b.npz") == 2
    err = capsys.readouterr().err.splitlines()
    assert "goes on with 1" in err[-2]
    assert "out of memory with batches" in err[-1]
    assert "--batch-size" in err[-1]


def test_a_bug_has_its_own_status(tmp_path: Path) -> None:
    code = (
        "import sys; from cassle_zoo.cli import main as cli\n"
        "def fail(_): raise KeyError('x')\n"
        "cli._run = fail\nsys.exit(cli.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == ExitStatus.BUG
    assert "KeyError: 'x'" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("cassle-zoo: this is a bug")


@pytest.mark.slow
def test_torchrun(images: Path, tmp_path: Path) -> None:
    options = ["--part-images", "2", "--batch-size", "2", "--device", "cpu"]
    features(images, "-o", f"{tmp_path / 'alone'}/", *options)
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "cassle_zoo", "features", MODEL, str(images), "-o", f"{tmp_path / 'out'}/",
         *options],
        check=True, timeout=300,
    )  # fmt: skip
    names = sorted(os.listdir(tmp_path / "alone"))
    assert sorted(os.listdir(tmp_path / "out")) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
