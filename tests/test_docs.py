"""The code in docs/ runs as it stands, and the settings that documents name exist."""

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from cassle_zoo.augmentation.registry import augmentations
from cassle_zoo.eval.datasets.split_rules import SplitConfig
from cassle_zoo.features.gallery import SAMPLES
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.train.methods import METHODS
from cassle_zoo.train.recipes import get_recipe

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
DOCUMENTS += [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.md"))]
DOC = ROOT / "docs" / "use_in_your_loop.md"
SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOC.read_text("utf-8"), re.MULTILINE | re.DOTALL)
)


def blocks(section: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL)


def run(code: str, namespace: dict[str, Any]) -> None:
    exec(compile(code, str(DOC), "exec"), namespace)


@pytest.fixture
def _images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a folder of images."""
    folder = tmp_path / "images" / "emoji"
    folder.mkdir(parents=True)
    for path in sorted(Path(SAMPLES).glob("*.png"))[:32]:
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)


def trained(namespace: dict[str, Any], projector: nn.Module) -> bool:
    """Whether steps were made, and the encoder of omega took part in them."""
    assert math.isfinite(namespace["loss"].item())
    encoder: Any = projector.encoder
    return bool(encoder[0].weight.grad.abs().max() > 0) and encoder[1].num_batches_tracked == 8


def settings() -> Iterator[str]:
    """All flags that set a field of a group of settings; `gain` is an example's."""
    yield from (f"--augment.{name}".replace("_", "-") for name in (*augmentations(), "gain"))
    config = get_recipe("resnet18_cassle_simclr.emoji64")
    groups = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]
    for name, group in [*groups, *(("method", method) for method in METHODS.values())]:
        if dataclasses.is_dataclass(group):
            yield from (f"--{name}.{f.name}".replace("_", "-") for f in dataclasses.fields(group))
    yield from (f"--split.{f.name}" for f in dataclasses.fields(SplitConfig))  # of eval


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_settings_that_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    assert set(re.findall(r"--[a-z]+\.[a-z][a-z-]*", text)) <= set(settings())


def test_extras_that_are_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    tops = ("cassle_zoo", "train", "eval", "hub", "benchmarks")
    sources = [path for top in tops for path in (ROOT / top).rglob("*.py")]
    texts = [path.read_text("utf-8") for path in (*DOCUMENTS, *sources)]
    named = {extra for text in texts for extra in re.findall(r"cassle-zoo\[(\w+)\]", text)}
    assert {"figures", "parquet", "wds"} <= named <= set(project["optional-dependencies"])


def test_the_table_of_models_holds_what_was_recorded() -> None:
    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    before = "benchmarks/study/records/adapted/efficientnet_lite0-96px-seed0"
    names = {
        "resnet50, random initialisation": "random-init_resnet50",
        "resnet18, random initialisation": "random-init_resnet18",
        "raw pixels, 16x16x3": "raw-pixels",
        "the same before it was adapted": f"../../{before}",
        **{f"`{spec.name}`": spec.full_name for spec in MODEL_SPECS.values() if spec.released},
    }
    for title, name in names.items():
        record = json.loads((ROOT / "eval" / "results" / f"{name}.json").read_text("utf-8"))
        metrics = (
            record["results"]["emoji64"]["metrics"] if "results" in record else record["metrics"]
        )
        linear = [metrics[part]["linear_top1"] for part in ("subcategory", "skin_tone", "vendor")]
        found = [metrics[part]["recall@1"] for part in ("flags", "identity")]
        values = " | ".join(f"{100 * value:.1f}" for value in (*linear, *found))
        assert f"| {title} | {values} |" in text


def test_the_sections_are_those_tested_below() -> None:
    assert {name: len(blocks(name)) for name in SECTIONS} == {
        "A plain PyTorch loop": 2,
        "The same, batched on the GPU": 1,
        "lightly": 1,
        "Saving the projector": 1,
        "Fine-tuning with timm's scripts": 0,  # its commands are those of test_timm_train.py
    }


@pytest.mark.usefixtures("_images")
def test_plain_loop_and_batches() -> None:
    namespace: dict[str, Any] = {}
    loop, variant = blocks("A plain PyTorch loop")
    run(loop, namespace)
    assert trained(namespace, namespace["projector"])
    run(variant, namespace)
    with Image.open(next(Path("images/emoji").glob("*.png"))) as image:
        (view, _), (omega, _) = namespace["views"](image)
    features = torch.rand(2, 512)
    assert view.shape == (3, 64, 64)
    assert namespace["projector"](features, omega.expand(2, 8)).shape == (2, 128)
    [batched] = blocks("The same, batched on the GPU")
    run(batched, namespace)
    assert namespace["images"].shape == (4, 3, 64, 64)
    assert namespace["omega"].shape == (4, 13)


@pytest.mark.usefixtures("_images")
def test_lightly_and_the_hub() -> None:
    pytest.importorskip("lightly")
    namespace: dict[str, Any] = {}
    imports = blocks("A plain PyTorch loop")[0].partition("\n\nviews")[0]
    run(imports, namespace)
    run(blocks("lightly")[0], namespace)
    head = namespace["model"].projection_head
    assert trained(namespace, head)
    run(blocks("Saving the projector")[0], namespace)
    loaded = namespace["projector"].state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in head.state_dict().items())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_that_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    linked = {target for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)}
    assert not {target for target in linked if not (document.parent / target).exists()}
    named = set(re.findall(r"(?<![\w/.-])((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|md|slurm))\b", text))
    roots = (ROOT, ROOT / "cassle_zoo", document.parent)
    assert not {name for name in named if not any((root / name).exists() for root in roots)}
    # `NAME` of `FILE.py`, or `FILE.py`: `NAME`, `NAME`
    file = r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.py)`"
    said = [(path, name) for name, path in re.findall(rf"`(\w+)`\s+(?:in|of)\s+{file}", text)]
    for path, names in re.findall(rf"{file}:\s+((?:`[\w.]+`(?:,\s+)?)+)", text):
        said += [(path, name) for name in re.findall(r"(\w+)`", names)]
    for path, name in said:
        [source] = {(root / path).resolve() for root in roots if (root / path).exists()}
        assert re.search(rf"\b{name}\b", source.read_text("utf-8")), f"{name} in {path}"
    modules = re.findall(r"-m\s+((?:cassle_zoo|benchmarks|docs)(?:\.\w+)*)", text)
    paths = {module: ROOT / module.replace(".", "/") for module in modules}
    assert not {
        module
        for module, path in paths.items()
        if not (path / "__main__.py").exists() and not path.with_suffix(".py").exists()
    }
