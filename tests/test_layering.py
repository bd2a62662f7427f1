"""Who may import whom: study -> train, hub; train -> eval -> core; hub -> core; cli above all."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 320

# Layer -> the layers that it must not import. The core is what lies directly in cassle_zoo.
FORBIDDEN = {
    "core": {"train", "eval", "hub", "study", "cli"},
    "eval": {"train", "hub", "study", "cli"},
    "hub": {"train", "eval", "study", "cli"},
    "train": {"hub", "study", "cli"},
    "study": {"cli"},
}
FOLDERS = {
    "core": ROOT / "cassle_zoo",
    "eval": ROOT / "eval",
    "hub": ROOT / "hub",
    "train": ROOT / "train",
    "study": ROOT / "study",
    "cli": ROOT / "cassle_zoo" / "cli",
}
HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "huggingface_hub", "safetensors", "tqdm"}


def modules(layer: str) -> list[Path]:
    if layer == "core":
        return sorted(FOLDERS[layer].glob("*.py"))
    return sorted(FOLDERS[layer].rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imported_at_import_time(tree: ast.Module) -> Iterator[str]:
    """Top-level packages imported by statements outside functions and TYPE_CHECKING blocks."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]
        pending.extend(ast.iter_child_nodes(node))


def violations(layer: str, source: str) -> list[str]:
    found = []
    for line, name in imported(ast.parse(source)):
        parts = name.split(".")
        if parts[0] in {"train", "eval", "hub", "study"}:
            found.append(f"line {line}: {name} is importable as cassle_zoo.{name} only")
        if parts[0] == "cassle_zoo" and parts[1:2] and parts[1] in FORBIDDEN.get(layer, ()):
            found.append(f"line {line}: {layer} must not import {name}")
    return found


def test_every_layer_is_there() -> None:
    assert all(modules(layer) for layer in FOLDERS)


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("core", "import cassle_zoo.train.loop"),
        ("core", "def f():\n    from cassle_zoo import eval"),
        ("eval", "from cassle_zoo.hub.card import render"),
        ("hub", "from cassle_zoo.eval import knn"),
        ("train", "from cassle_zoo.hub import export"),
        ("train", "from eval import knn"),
        ("train", "from cassle_zoo.study import design"),
        ("study", "from cassle_zoo.cli import main"),
        ("cli", "import hub.export"),
    ],
)
def test_the_check_finds_violations(layer: str, source: str) -> None:
    assert violations(layer, source)


@pytest.mark.parametrize("layer", FOLDERS)
def test_layers(layer: str) -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in modules(layer)
        # python -m cassle_zoo is the command line.
        if path.name != "__main__.py" and (lines := violations(layer, path.read_text("utf-8")))
    }
    assert not found


def test_cheap_modules_stay_cheap() -> None:
    """The command line, and what ``import cassle_zoo`` loads, import nothing heavy."""
    light = [FOLDERS["core"] / f"{name}.py" for name in ("__init__", "specs", "errors")]
    for path in [*light, *modules("cli")]:
        tree = ast.parse(path.read_text("utf-8"))
        assert not HEAVY & set(imported_at_import_time(tree)), path


def test_modules_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for layer in FOLDERS
        for path in modules(layer)
        if (lines := len(path.read_text("utf-8").splitlines())) > MAX_LINES
    }
    assert not long
