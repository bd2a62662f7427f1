"""Models from the Hub in processes of their own: environment variables and races."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import image_folder

import cassle_zoo
from cassle_zoo.cli.main import main
from cassle_zoo.store.folder import MODEL_FILE

NAME = "resnet18_cassle_simclr.emoji64"

# The registry's entry, as the fixture `pinned` makes it, but in another process.
PIN = """
import dataclasses, json, os, sys
from pathlib import Path
from cassle_zoo import specs
from cassle_zoo.store import folder as model_folder
name, changes = json.loads(sys.argv[1])
specs.MODEL_SPECS[name] = dataclasses.replace(specs.MODEL_SPECS[name], **changes)
model_folder.WEIGHTS_ROOT = Path("nothing is bundled")
"""


def pin_argument() -> str:
    spec = cassle_zoo.model_info(NAME)
    fields = ("timm_arch", "num_features", "sha256", "hub_repo", "hub_revision")
    return json.dumps([NAME, {field: getattr(spec, field) for field in fields}])


def run(code: str, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_eight_processes_fill_an_empty_cache_at_once(hub: Any, pinned: str) -> None:
    """Forked after the imports, so that they start together."""
    code = """
import multiprocessing, torch, timm, cassle_zoo
def load(barrier, queue):
    barrier.wait()
    model = cassle_zoo.create_model(name, pretrained=True)
    queue.put(sum(float(v.double().sum()) for v in model.state_dict().values()))
fork = multiprocessing.get_context("fork")
barrier, queue = fork.Barrier(8), fork.Queue()
processes = [fork.Process(target=load, args=(barrier, queue)) for _ in range(8)]
for process in processes: process.start()
print(len({queue.get(timeout=300) for _ in processes}))
for process in processes: process.join()
assert all(process.exitcode == 0 for process in processes)
"""
    assert run(PIN + code, hub.environment(), pin_argument()) == "1\n"
    assert len(hub.cached(MODEL_FILE)) == 1
    assert not list(hub.cache.rglob("*.incomplete"))


def test_environment_variables(hub: Any, pinned: str, tmp_path: Path) -> None:
    """HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, in processes that import no torch."""
    hub.proxy.token = "hf_secretSecret"
    environment = hub.environment() | {"HF_HOME": str(tmp_path / "home")}
    del environment["HF_HUB_CACHE"]
    code = """
from cassle_zoo.store import resolve
print(resolve(name).folder)
assert "torch" not in sys.modules
"""
    first = run(PIN + code, environment | {"HF_TOKEN": hub.proxy.token}, pin_argument())
    assert first.startswith(str(tmp_path / "home" / "hub"))
    second = run(PIN + code, environment | {"HF_HUB_OFFLINE": "1"}, pin_argument())
    assert second == first


def test_timm_lists_hub_models_as_pretrained_and_checks_them(hub: Any, pinned: str) -> None:
    code = """
import timm, cassle_zoo
assert name in timm.list_pretrained("*cassle*")
spec = specs.MODEL_SPECS[name]
assert timm.get_pretrained_cfg(name).hf_hub_id == f"{spec.hub_repo}@{spec.hub_revision}"
cfg = timm.create_model(name, pretrained=True).pretrained_cfg
path = Path(cfg["file"])
blob = path.resolve()
blob.write_bytes(blob.read_bytes()[:-1] + b"!")
for arguments in ({}, {"pretrained_cfg": cfg}, {"pretrained_cfg_overlay": {"crop_pct": 0.9}}):
    try:
        timm.create_model(name, pretrained=True, **arguments)
    except cassle_zoo.common.errors.ChecksumError:
        continue
    raise AssertionError(arguments)
"""
    run(PIN + code, hub.environment(), pin_argument())


def test_commands(hub: Any, repo: str, pinned: str, tmp_path: Path, capsys: Any) -> None:
    images = str(image_folder(tmp_path / "images", ["a.png", "b.png"]))
    assert main(["info", f"hf-hub:{repo}@v1"]) == 0
    shown = capsys.readouterr().out
    assert pinned in shown
    assert repo in shown
    for name in (f"hf-hub:{repo}", f"{NAME}@v1", NAME):
        assert main(["features", name, images, "-o", str(tmp_path / "out.npz")]) == 0
        assert "2 images x 96 features" in capsys.readouterr().out
    output = str(tmp_path / "demo")
    assert main(["demo", "--model", f"hf-hub:{repo}", images, "-o", output]) == 0
    for name in ("hf-hub:org/nothing", f"{NAME}@nope"):
        assert main(["info", name]) == 2
        assert "cassle-zoo: error: There is no repository" in capsys.readouterr().err


def test_a_measured_model_takes_its_commits_projector(hub: Any, repo: str, pinned: str) -> None:
    from cassle_zoo.eval.sources import open_source

    source = open_source(f"hf-hub:{repo}")
    assert source.projector is not None
    assert source.projector.args == (f"hf-hub:{repo}@{pinned}",)  # type: ignore[attr-defined]
    registered = open_source(f"{NAME}@{pinned}")
    assert source.name == registered.name == NAME
    assert source.sha256 == registered.sha256
