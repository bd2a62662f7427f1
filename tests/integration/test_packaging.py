"""The built wheel: what is in it, and that it works where the checkout is not."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("cassle_zoo", "train", "eval", "hub")
PACKAGES = [
    path.parent.relative_to(ROOT).as_posix().removeprefix("cassle_zoo/")
    for source in SOURCES
    for path in (ROOT / source).rglob("__init__.py")
    if path.parent.name != "cassle_zoo"
]


def copy_sources(folder: Path) -> Path:
    """Copy what a build reads, so that it neither sees nor leaves build products here."""
    for name in SOURCES:
        shutil.copytree(
            ROOT / name,
            folder / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def build_wheel(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},  # as `make dist` sets it
    )


def run_isolated(target: Path, code: str, cwd: Path) -> str:
    """Run code that finds cassle_zoo in ``target`` before anywhere else; return its output."""
    setup = f"import sys; sys.path.insert(0, {str(target)!r})\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", setup + code],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    result = build_wheel(copy_sources(folder), folder / "dist")
    assert result.returncode == 0, result.stdout + result.stderr
    [path] = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed into it, alone."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", target, wheel], check=True)
    return target


@pytest.mark.slow
def test_wheel_contains_the_package_only(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = {name.split("/")[0] for name in names}
    assert {f for f in folders if not f.endswith(".dist-info")} == {"cassle_zoo"}
    assert not [name for name in names if "__pycache__" in name]

    assert "cassle_zoo/py.typed" in names
    for package in PACKAGES:
        assert f"cassle_zoo/{package}/__init__.py" in names
    for folder, patterns in {
        "cassle_zoo": ["**/*.py", "samples/*", "weights/**/*"],
        "eval": ["results/*.json", "datasets/splits/*"],
    }.items():
        prefix = "" if folder == "cassle_zoo" else "cassle_zoo/"
        expected = {
            prefix + path.relative_to(ROOT).as_posix()
            for pattern in patterns
            for path in (ROOT / folder).glob(pattern)
            if path.is_file()
        }
        assert expected <= names


@pytest.mark.slow
def test_wheel_is_small_enough_for_the_index(wheel: Path) -> None:
    assert wheel.stat().st_size < 100e6


@pytest.mark.slow
def test_two_builds_are_the_same(wheel: Path, tmp_path: Path) -> None:
    again = copy_sources(tmp_path)
    for path in again.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)  # a clone of another day
    assert build_wheel(again, tmp_path / "dist").returncode == 0
    [other] = (tmp_path / "dist").glob("*.whl")
    assert other.read_bytes() == wheel.read_bytes()


@pytest.mark.slow
def test_wheel_works_alone(installed: Path, tmp_path: Path) -> None:
    code = (
        "import cassle_zoo, cassle_zoo.train, cassle_zoo.eval, cassle_zoo.hub\n"
        "from cassle_zoo.cli.main import main\n"
        "print(cassle_zoo.__file__)\n"
        "main(['list'])\n"
    )
    where, *models = run_isolated(installed, code, tmp_path).splitlines()
    assert Path(where).is_relative_to(installed)
    assert any(line.startswith("resnet50_cassle_simclr.emoji64") for line in models)


@pytest.mark.slow
def test_released_weights_load_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Without network and with an empty Hub cache, see conftest.py."""
    code = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import cassle_zoo, torch\n"
        "for name in cassle_zoo.list_models(pretrained=True):\n"
        "    model = cassle_zoo.create_model(name, pretrained=True).eval()\n"
        "    size = cassle_zoo.model_info(name).input_size\n"
        "    assert torch.isfinite(model(torch.zeros(1, *size))).all()\n"
        "    print(name)\n"
    )
    loaded = run_isolated(installed, code, tmp_path).split()
    assert "resnet50_cassle_simclr.emoji64" in loaded
    assert "resnet18_cassle_simclr.emoji64" in loaded


@pytest.mark.slow
def test_checkout_without_symlinks_fails_to_build(tmp_path: Path) -> None:
    """Where git cannot make symlinks it writes files with the target's name."""
    source = copy_sources(tmp_path)
    for name in ("train", "eval", "hub"):
        link = source / "cassle_zoo" / name
        target = link.readlink()
        link.unlink()
        link.write_text(str(target))
    result = build_wheel(source, tmp_path / "dist")
    assert result.returncode != 0
    assert "cassle_zoo/eval" in result.stdout + result.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import cassle_zoo as cz; assert cz.list_models() and cz.model_info('resnet50_simclr')",
        "from cassle_zoo.cli.main import build_parser; build_parser().format_help()",
        "from cassle_zoo.cli.main import main; main(['list'])",
        "from cassle_zoo.cli.main import main; main(['list', '*resnet18*', '--pretrained'])",
    ],
)
def test_heavy_libraries_are_not_imported(code: str) -> None:
    heavy = {"torch", "torchvision", "timm", "numpy", "huggingface_hub", "PIL"}
    output = subprocess.check_output(
        [sys.executable, "-c", f"{code}\nimport sys; print('modules:', *sys.modules)"],
        cwd=ROOT,
        text=True,
    )
    assert not heavy & set(output.split())
