"""The rooms of the house, and who may import whom. docs/architecture.md draws the same."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("train", "eval", "hub")
MAX_LINES = 550
MAX_MODULES = 16  # of a folder, __init__.py included

_CORE = frozenset(
    {"version", "common", "data", "augmentation", "specs", "projector", "records"}
    | {"store", "accel", "zoo", "checkpoints", "features"}
)
# Room -> the rooms that it may import. A room is a folder or module of cassle_zoo, or a stage.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "version": frozenset(),
    "common": frozenset({"version"}),
    "data": frozenset({"common"}),
    "augmentation": frozenset({"common"}),
    "specs": frozenset({"common"}),
    "projector": frozenset({"common", "augmentation"}),
    "records": frozenset({"version", "common", "augmentation", "specs"}),
    "store": frozenset({"version", "common", "augmentation", "specs", "projector", "records"}),
    "accel": frozenset({"common"}),
    "zoo": _CORE - {"zoo", "checkpoints", "features", "data"},
    "checkpoints": _CORE - {"checkpoints", "features", "data", "store", "accel"},
    "features": _CORE - {"features"},
    "train": _CORE,
    "eval": _CORE,
    "hub": _CORE,
    "cli": _CORE | {*STAGES},
    "benchmarks": _CORE | {*STAGES, "cli"},
}
# `import cassle_zoo` gives the public names lazily; `python -m cassle_zoo` is the command line, and
# `python -m cassle_zoo.timm_train` runs a script of timm's.
ENTRANCES = {
    "cassle_zoo/__init__.py",
    "cassle_zoo/__main__.py",
    "cassle_zoo/timm_train.py",
}
HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "huggingface_hub", "safetensors", "tqdm"}
LIGHT = ("cassle_zoo/__init__.py", "cassle_zoo/specs.py", "cassle_zoo/common/errors.py")


def product_files() -> list[Path]:
    """All modules, each once: those of the stages not through the symlinks in cassle_zoo."""
    found = [p for top in ("cassle_zoo", *STAGES, "benchmarks") for p in (ROOT / top).rglob("*.py")]
    inside = tuple(str(ROOT / "cassle_zoo" / stage) + "/" for stage in STAGES)
    return sorted(path for path in found if not str(path).startswith(inside))


def module_name(path: Path) -> str:
    """Dotted name under which a file is imported; a package's is that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in STAGES:
        parts = ("cassle_zoo", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    top, *rest = module.split(".")
    return rest[0] if top == "cassle_zoo" and rest else top


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            names = (a.value for a in node.args if isinstance(a, ast.Constant))
            yield from ((node.lineno, name) for name in names if isinstance(name, str))


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


def violations(room: str, source: str) -> list[str]:
    found = []
    for line, name in imported(ast.parse(source)):
        if name.split(".")[0] in STAGES:
            found.append(f"line {line}: {name} is importable as cassle_zoo.{name} only")
        if name.split(".")[0] not in {"cassle_zoo", "benchmarks"}:
            continue
        public = name.count(".") <= 1 and room_of(name) not in MAY_IMPORT
        if public and room in {"cli", "benchmarks"}:
            continue
        other = room_of(name)
        if other not in {room, *MAY_IMPORT[room]}:
            found.append(f"line {line}: {room} must not import {name}")
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the circles that a depth-first walk meets, each as the names along it."""
    found: list[list[str]] = []
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in finished:
            for other in sorted(graph[name]):
                visit(other, [*path, name])
            finished.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def module_graph() -> dict[str, set[str]]:
    """Module -> the modules that it imports, also inside functions."""
    files = {module_name(path): path for path in product_files()}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        others = {other for _, other in imported(ast.parse(path.read_text("utf-8")))}
        graph[name] = {
            target
            for other in others
            if (target := other if other in files else other.rpartition(".")[0]) in files
            and target != name
        }
    return graph


def test_every_room_is_there() -> None:
    rooms = {
        room_of(module_name(p))
        for p in product_files()
        if str(p.relative_to(ROOT)) not in ENTRANCES
    }
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("store", "import cassle_zoo.zoo.registry"),
        ("zoo", "import cassle_zoo.checkpoints.identify"),
        ("checkpoints", "from cassle_zoo.hub.convert import ConvertOptions"),
        ("zoo", "def f():\n    from cassle_zoo.features import extract"),
        ("common", "from cassle_zoo.specs import MODEL_SPECS"),
        ("features", "def f():\n    from cassle_zoo import eval"),
        ("eval", "from cassle_zoo.hub.cards.card import render_card"),
        ("hub", "from cassle_zoo.eval import protocols"),
        ("train", "from cassle_zoo.hub import export"),
        ("train", "from cassle_zoo.eval.protocols import knn"),
        ("train", "from train import loop"),
        ("train", "importlib.import_module('cassle_zoo.eval.runner')"),
        ("common", "__import__('cassle_zoo.specs')"),
        ("cli", "from benchmarks.study import design"),
        ("cli", "import hub.export"),
    ],
)
def test_the_check_finds_violations(room: str, source: str) -> None:
    assert violations(room, source)


def test_no_room_imports_upward() -> None:
    found = {
        name: lines
        for path in product_files()
        if (name := str(path.relative_to(ROOT))) not in ENTRANCES
        and (lines := violations(room_of(module_name(path)), path.read_text("utf-8")))
    }
    assert not found


def test_the_rooms_have_an_order() -> None:
    assert not circles({room: set(others) for room, others in MAY_IMPORT.items()})


def test_there_is_no_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c", "b"]]
    assert not circles(module_graph())


def test_cheap_modules_stay_cheap() -> None:
    """The command line, and what `import cassle_zoo` loads, import nothing heavy."""
    for path in [*map(ROOT.joinpath, LIGHT), *(ROOT / "cassle_zoo" / "cli").glob("*.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        assert not HEAVY & set(imported_at_import_time(tree)), path


def test_no_module_and_no_folder_is_too_large() -> None:
    lengths = {str(p): len(p.read_text("utf-8").splitlines()) for p in product_files()}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
    folders: dict[Path, int] = {}
    for path in product_files():
        folders[path.parent] = folders.get(path.parent, 0) + 1
    assert not {str(folder): count for folder, count in folders.items() if count > MAX_MODULES}
