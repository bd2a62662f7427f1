"""Every example runs as its heading says, and leaves behind what it says."""

import csv
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image
from timm_script import TRAIN

import cassle_zoo
from cassle_zoo.augmentation import base, registry
from cassle_zoo.cli.main import main as cli
from cassle_zoo.features.gallery import SAMPLES
from cassle_zoo.timm_train import main as timm_train

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
GUIDE = EXAMPLES / "finetune_with_timm.md"
IMAGES = sorted(Path(SAMPLES).glob("*.png"))[:24]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a folder of images in two sub-folders."""
    for number, path in enumerate(IMAGES):
        folder = tmp_path / "photos" / ("train", "validation")[number % 6 == 5] / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Path("photos")


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.augmentations()
    monkeypatch.setattr(base, "_registered", base.registered())


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> None:
    """Run an example in this process, which cannot reach the network."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def documented(path: Path) -> str:
    return path.read_text("utf-8").split('"""')[1]


def test_all_examples_are_listed_and_on_the_site() -> None:
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert set(re.findall(r"\]\(([\w.]+)\)", readme)) == files
    pages = {f"examples/{Path(name).stem}.md" for name in files} | {"examples/index.md"}
    assert set(re.findall(r"examples/\w+\.md", navigation)) == pages


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_headings_say_what_is_needed(path: Path) -> None:
    text = documented(path)
    for word in ("Shows ", "Needs ", "Run ", "Look at "):
        assert re.search(rf"^{word}", text, re.MULTILINE), word
    assert f"python examples/{path.name}" in text
    extras = re.findall(r"cassle-zoo\[(\w+)\]", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(extras) <= set(project["optional-dependencies"])
    assert len(path.read_text("utf-8").splitlines()) <= 115


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.usefixtures("_registry")
def test_help_and_the_commands_of_the_heading(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if path.name == "ray_features.py":
        pytest.importorskip("ray.data")
    if path.name == "lightning_module.py":
        pytest.importorskip("pytorch_lightning")
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, path.name, "--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert documented(path).strip() in text
    commands = re.findall(rf"python examples/{path.name}(.*?)(?=#|$)", text, re.MULTILINE)
    options = set(re.findall(r"^  (?:-\w[ \w]*, )?(--[a-z-]+)", text, re.MULTILINE))
    assert len(commands) >= 2
    assert {flag for line in commands for flag in re.findall(r"--[a-z-]+", line)} <= options


@pytest.mark.slow
def test_own_loop(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "own_loop.py", "photos", "-o", "out", "--epochs", "1", "--batch-size", "12")
    said = capsys.readouterr().out
    found = re.search(r"its partner: (\d+)% with its omega, (\d+)% with another's", said)
    assert found
    assert int(found[1]) > int(found[2])
    model = timm.create_model("local-dir:out/backbone", pretrained=True)
    released = cassle_zoo.create_model("resnet18_cassle_simclr", pretrained=True)
    assert not model.state_dict()["conv1.weight"].equal(released.state_dict()["conv1.weight"])
    with pytest.raises(SystemExit):
        run(monkeypatch, "own_loop.py", "photos", "--batch-size", "99")
    assert "--batch-size 24 or less" in capsys.readouterr().err


@pytest.mark.slow
def test_adapt_own_images(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "adapt_own_images.py", "photos/train", "-o", "out", "--epochs", "2")
    said = capsys.readouterr().out
    assert re.search(r"the nearest is of the same kind: \d+% before, \d+% after", said)
    page = Path("out/compare.html").read_text("utf-8")
    assert "local-dir:out/model" in page
    features = cassle_zoo.extract_features("local-dir:out/model", photos).features
    before = cassle_zoo.extract_features("resnet18_cassle_simclr", photos).features
    assert features.shape == before.shape
    assert not features.equal(before)


@pytest.mark.slow
def test_find_duplicates(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "find_duplicates.py", "photos", "-o", "sheet.png", "--pairs", "3")
    rows = re.findall(r"^(\w+) +(\d+)% +(\d+)% +(\d+)%$", capsys.readouterr().out, re.MULTILINE)
    assert [row[0] for row in rows] == ["crop", "colour", "grey", "mirror", "blur"]
    assert all(int(part) > 100 / len(IMAGES) for row in rows for part in row[1:])
    assert Path("sheet.png").stat().st_size > 10_000


@pytest.mark.usefixtures("photos")
def test_find_duplicates_checks_its_output_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cassle_zoo.features.inputs.expand_inputs", None)
    with pytest.raises(SystemExit):
        run(monkeypatch, "find_duplicates.py", "photos", "-o", "sheet")
    assert "-o sheet: end its name in .png or .jpg" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("_registry", "photos")
def test_new_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "new_augmentation.py", "photos", "--epochs", "1", "--batch-size", "10")
    out = Path("white_balance")
    assert "warmth in stops" in (out / "views.html").read_text("utf-8")
    assert "warmth in stops" in (out / "model/README.md").read_text("utf-8")
    projector = cassle_zoo.create_projector(f"local-dir:{out / 'model'}", pretrained=True)
    assert projector.layout.slices()["white_balance"] == slice(9, 10)


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_lightning_module(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_lightning")
    words = ("--arch", "resnet18", "--size", "32", "--epochs", "2", "--batch-size", "12")
    run(monkeypatch, "lightning_module.py", "photos", "-o", "out", *words)
    with Path("out/metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
    model = timm.create_model("local-dir:out/model", pretrained=True)
    assert tuple(vars(model)["pretrained_cfg"]["input_size"]) == (3, 32, 32)
    assert model.state_dict()["bn1.running_mean"].any()  # the backbone was in training mode
    assert cassle_zoo.create_projector("local-dir:out/model", pretrained=True).layout.width == 13


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_ray_features(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    from cassle_zoo.features.extract import extract_features

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        Path("photos/broken.jpg").write_bytes(b"no image")
        run(monkeypatch, "ray_features.py", "photos", "-o", "out")
        rows = ray.data.read_parquet("out").take_all()
    finally:
        ray.shutdown()
    expected = extract_features("resnet18_cassle_simclr", Path("photos"))
    assert {Path(row["path"]).name for row in rows} == {Path(s).name for s in expected.sources}
    by_name = dict(zip((Path(s).name for s in expected.sources), expected.features, strict=True))
    for row in rows:
        assert row["features"] == pytest.approx(by_name[Path(row["path"]).name].numpy(), abs=1e-4)


def shown(cell: Any) -> list[tuple[str, str]]:
    """Return kind and text of what a cell shows, without what is on stderr.

    Into how many messages printed text is cut depends on the machine's speed.
    """
    found: list[tuple[str, str]] = []
    for one in cell.outputs:
        kind, text = one.output_type, one.get("text", one.get("data", {}).get("text/plain"))
        if one.get("name") == "stderr":
            continue
        if kind == "stream" and found and found[-1][0] == kind:
            text = found.pop()[1] + text
        found.append((kind, text))
    return found


def test_the_notebook_is_small_and_has_its_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    assert NOTEBOOK.stat().st_size < 300_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = [one for cell in code for one in cell.outputs if "image/png" in one.get("data", {})]
    assert len(shown) == 2
    assert not [one for cell in code for one in cell.outputs if one.get("name") == "stderr"]
    # An extractor's model stays on the GPU, if there is one; tensors drawn on the CPU do not fit.
    assert not [cell for cell in code if re.search(r"extractor\.model\b[^,]*\(torch", cell.source)]


@pytest.mark.slow
def test_the_notebook_runs_and_says_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    committed = nbformat.read(NOTEBOOK, as_version=4)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    for cell, old in zip(notebook.cells, committed.cells, strict=True):
        if cell.cell_type != "code":
            continue
        assert [kind for kind, _ in shown(cell)] == [kind for kind, _ in shown(old)]
        for (_, new), (_, before) in zip(shown(cell), shown(old), strict=True):
            assert re.findall(r"[A-Za-z_]+", new) == re.findall(r"[A-Za-z_]+", before)
            numbers = (
                [float(x) for x in re.findall(r"-?\d+\.?\d*", text)] for text in (new, before)
            )
            assert next(numbers) == pytest.approx(next(numbers), abs=0.02)


@pytest.mark.slow
def test_fine_tuning_with_timm(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands and the code of the guide, in order; train.py is a stand-in of the same words.

    They run in this process; that `timm_train` is a command is seen in test_timm_train.py.
    """
    Path("train.py").write_text(TRAIN)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE.read_text("utf-8"), re.M | re.S)
    assert [kind for kind, _ in blocks] == ["sh", "sh", "sh", "python", "sh"]
    namespace: dict[str, Any] = {}
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, str(GUIDE), "exec"), namespace)
            continue
        # As few epochs and images as show that all is connected.
        short = text.replace("optim.epochs 20", "optim.epochs 1").replace("-size 16", "-size 8")
        for line in short.replace("\\\n", " ").splitlines():
            command(shlex.split(line), monkeypatch)
    adapted, tuned = (
        timm.create_model(f"local-dir:{one}", pretrained=True) for one in ("adapted", "classifier")
    )
    assert tuned.num_classes == 2
    assert tuple(vars(tuned)["pretrained_cfg"]["mean"]) == (0.5, 0.5, 0.5)
    assert not tuned.state_dict()["conv1.weight"].equal(adapted.state_dict()["conv1.weight"])
    assert namespace["transform"](Image.open(IMAGES[0]).convert("RGB")).shape == (3, 64, 64)
    assert Path("tuned/released/model_best.pth.tar").is_file()
    assert Path("changed.html").stat().st_size > 10_000


def command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of the guide in this process."""
    if words[0] == "cassle-zoo":
        assert cli(words[1:]) == 0
        return
    assert words[0] == "python"
    script = words[3:] if words[1:3] == ["-m", "cassle_zoo.timm_train"] else words[1:]
    monkeypatch.setattr(sys, "argv", script)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # `timm_train` changes the first
    with pytest.raises(SystemExit) as stop:  # the script's own
        if "-m" in words:
            timm_train(script)
        runpy.run_path(script[0], run_name="__main__")
    assert stop.value.code == 0
