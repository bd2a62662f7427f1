"""`import cassle_zoo`: cheap, without side effects, and timm knows the models afterwards."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cassle_zoo

ROOT = Path(cassle_zoo.__file__).parent.parent

# A stand-in for timm, which takes seconds to import: just what the registration calls.
FAKE_TIMM = """
import os
from timm import models
if os.environ.get("TIMM_FAILS"):
    raise RuntimeError("timm is broken")
"""
FAKE_TIMM_MODELS = """
import collections
entrypoints = {}
class DefaultCfg:
    def __init__(self):
        self.tags = collections.deque()
def generate_default_cfgs(cfgs):
    out = collections.defaultdict(DefaultCfg)
    for name in cfgs:
        out[name.partition(".")[0]].tags.append(name.partition(".")[2])
    return out
def get_pretrained_cfg_value(name, key):
    return None
def is_model(name):
    return name in entrypoints
def model_entrypoint(name):
    return entrypoints[name]
def register_model(fn):
    assert fn.__name__ not in entrypoints
    entrypoints[fn.__name__] = fn
"""


def run(code: str, *path: Path, **env: str) -> str:
    """Run code in a fresh process and return what it printed."""
    environment = {
        **os.environ,
        **env,
        "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fake_timm(tmp_path: Path) -> Path:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(FAKE_TIMM)
    (tmp_path / "timm" / "models.py").write_text(FAKE_TIMM_MODELS)
    return tmp_path


def test_import_changes_no_global_state() -> None:
    changed = run(
        """
import logging, os, random, signal, sys, threading, warnings
def state():
    return {
        "env": dict(os.environ), "random": random.getstate(), "cwd": os.getcwd(),
        "warnings": list(warnings.filters), "threads": threading.active_count(),
        "logging": (logging.root.level, list(logging.root.handlers)), "path": list(sys.path),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, list(sys.path_hooks)), "finders": sys.meta_path[-3:],
    }
before = state()
import cassle_zoo
after = state()
print([key for key in before if before[key] != after[key]])
heavy = {"torch", "timm", "numpy", "PIL", "huggingface_hub", "safetensors"}
print(sorted(heavy & set(sys.modules)))
"""
    )
    assert changed.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize("name", cassle_zoo.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(cassle_zoo, name) is not None
    assert name in dir(cassle_zoo)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(cassle_zoo.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module).removeprefix("cassle_zoo.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == cassle_zoo._MODULE_OF
    assert sorted(seen) == sorted(set(cassle_zoo.__all__) - {"__version__"})


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = cassle_zoo.no_such_thing


@pytest.mark.parametrize(
    "statement",
    [
        "import timm",
        "from timm import models",
        "import timm.models",
        "from timm.models import is_model",
        "import importlib.util; assert importlib.util.find_spec('timm') is not None",
        """
import importlib
import cassle_zoo.zoo.registry
importlib.reload(cassle_zoo)
import timm
importlib.reload(cassle_zoo)
cassle_zoo.zoo.registry.register_models()
""",
    ],
    ids=["package", "sub-package", "dotted", "name", "asked for before", "reloaded"],
)
def test_models_are_registered_when_timm_is_imported_later(fake_timm: Path, statement: str) -> None:
    code = f"""
import sys
finders = list(sys.meta_path)
import cassle_zoo
{statement}
import timm
assert timm.models.is_model("resnet18_cassle_simclr")
assert sys.meta_path == finders, "the finder is gone"
assert "exec_module" not in vars(timm.__loader__) and timm.__loader__ is timm.__spec__.loader
"""
    run(code, fake_timm)


def test_models_are_registered_when_timm_is_imported_already(fake_timm: Path) -> None:
    code = """
import sys, timm
finders = list(sys.meta_path)
import cassle_zoo
assert timm.models.is_model("resnet18_cassle_simclr") and sys.meta_path == finders
"""
    run(code, fake_timm)


def test_timm_missing_is_the_usual_error(tmp_path: Path) -> None:
    code = """
import sys, cassle_zoo
sys.path[:] = [p for p in sys.path if "site-packages" not in p]
try:
    import timm
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(code, tmp_path).strip() == "timm"


def test_a_failed_import_of_timm_can_be_repeated(fake_timm: Path) -> None:
    code = """
import os, sys, cassle_zoo
try:
    import timm
except RuntimeError as error:
    assert str(error) == "timm is broken"
else:
    raise SystemExit("timm was imported")
for name in [n for n in sys.modules if n.startswith("timm")]:
    del sys.modules[name]
del os.environ["TIMM_FAILS"]
import timm
assert timm.models.is_model("resnet18_cassle_simclr")
"""
    run(code, fake_timm, TIMM_FAILS="1")


def test_a_failed_registration_is_loud_every_time(fake_timm: Path) -> None:
    (fake_timm / "timm" / "models.py").write_text("def is_model(name): return False")
    code = """
import sys, cassle_zoo
for attempt in range(2):
    try:
        import timm
    except ImportError as error:
        print("loud")
"""
    assert run(code, fake_timm).split() == ["loud", "loud"]


def test_real_timm_builds_our_models() -> None:
    code = """
import warnings
warnings.simplefilter("error")
import cassle_zoo
from timm.models import create_model, list_models
print(create_model("resnet18_cassle_simclr.stl10").num_classes, *list_models("*cassle_simclr"))
"""
    names = [f"{arch}_cassle_simclr" for arch in ("efficientnet_lite0", "resnet18", "resnet50")]
    assert run(code).split() == ["0", *names]
