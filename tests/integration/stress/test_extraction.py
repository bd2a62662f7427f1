"""Extraction into a folder: killed, stopped, over and over; and its memory for many images."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import image_folder
from generated_images import Generated, tiny_network, to_tensor
from stress_runs import DICE, KILLS

from cassle_zoo import extract_to_folder, load_features
from cassle_zoo.common.devices import peak_bytes
from cassle_zoo.features.extract import Extractor

pytestmark = pytest.mark.slow

IMAGES, PART = 400, 40
TIMES = min(KILLS, 20)
MANY = int(os.environ.get("CASSLE_ZOO_IMAGES", "60000"))
STOPPED = 143
_fork = multiprocessing.get_context("fork")
_started: list[Any] = []


def extract(folder: Path, images: int = IMAGES, *, pause: float = 0.0, **options: Any) -> int:
    """Extract generated images, slowly if there must be time to disturb it."""

    def network(x: torch.Tensor) -> torch.Tensor:
        time.sleep(pause)
        return body(x)

    body = tiny_network()

    class Slow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return network(x)

    torch.set_num_threads(1)
    result = extract_to_folder(
        Extractor(Slow(), device="cpu", transform=to_tensor),
        Generated(images, bad=37),
        folder,
        part_images=PART,
        batch_size=8,
        progress=False,
        **options,
    )
    return STOPPED if result.stopped else 0


def start(folder: Path, pause: float, **options: Any) -> Any:
    def work() -> None:
        os.setsid()
        sys.stderr = folder.with_suffix(".log").open("a", buffering=1)
        sys.exit(extract(folder, pause=pause, **options))

    process: Any = _fork.Process(target=work)
    process.start()
    _started.append(process)
    while process.is_alive() and os.getpgid(process.pid) != process.pid:
        time.sleep(0.001)  # a signal to the group needs it to exist
    return process


@pytest.fixture(autouse=True)
def kill_what_hangs() -> Iterator[None]:
    """End what a failed test leaves: who waits for it, or for its output, would hang as well."""
    yield
    for process in _started:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
    _started.clear()


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone")
    assert extract(folder) == 0
    return content(folder)


@pytest.mark.parametrize("kind", ["safetensors", "parquet"])
@pytest.mark.parametrize("workers", [0, 2])
def test_sigkill(
    tmp_path: Path, alone: dict[str, bytes], row: Callable[[str], Any], kind: str, workers: int
) -> None:
    line = row(f"features: SIGKILL ({kind}, {workers} workers)")
    options: dict[str, Any] = {"kind": kind, "num_workers": workers}
    if kind == "parquet":
        assert extract(tmp_path / "alone", **options) == 0
        alone = content(tmp_path / "alone")
    run = 0
    folder = tmp_path / "run0"
    while line.injected < TIMES:
        process = start(folder, 0.002, **options)
        process.join(DICE.uniform(0.05, 0.6))
        before = len(list(folder.glob("part-*")))
        if process.exitcode is None:
            # Its workers with it, as the kernel does when memory is short.
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            line.injected += 1
            line.survived += 1
            assert len(list(folder.glob("part-*"))) >= before
        else:
            assert process.exitcode == 0, folder.with_suffix(".log").read_text()
            assert content(folder) == alone
            run += 1
            folder = tmp_path / f"run{run}"
    assert extract(folder, **options) == 0
    line.else_lost = int(content(folder) != alone)
    assert content(folder) == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm(
    tmp_path: Path, alone: dict[str, bytes], row: Callable[[str], Any], workers: int
) -> None:
    line = row(f"features: SIGTERM ({workers} workers)")
    folder = tmp_path / "run"
    while line.injected < min(TIMES, 10):
        process = start(folder, 0.01, num_workers=workers)
        process.join(DICE.uniform(0.1, 0.4))
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.join(60)
        if process.exitcode == 0:
            assert content(folder) == alone
            folder = folder.with_name(folder.name + "x")
            continue
        # Before the handlers are set, the signal ends the process as usual.
        said = folder.with_suffix(".log").read_text()
        assert process.exitcode in (STOPPED, -signal.SIGTERM), said
        line.injected += 1
        line.survived += 1
    assert extract(folder, num_workers=workers) == 0
    line.else_lost = int(content(folder) != alone)
    assert content(folder) == alone


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
def test_killed_worker(tmp_path: Path, alone: dict[str, bytes], row: Callable[[str], Any]) -> None:
    line = row("features: data worker killed")
    folder = image_folder(tmp_path / "images", [f"{i:03d}.png" for i in range(200)])
    command = [
        sys.executable, "-m", "cassle_zoo", "features", "resnet18_cassle_simclr.emoji64",
        str(folder), "--workers", "1", "--batch-size", "2", "--device", "cpu", "-o",
    ]  # fmt: skip
    for output in (f"{tmp_path / 'out'}/", str(tmp_path / "out.npz")):
        process = subprocess.Popen([*command, output], stderr=subprocess.PIPE, text=True)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        worker: list[str] = []
        while process.poll() is None and not worker:
            # Not a program that is about to be started, but a copy of its parent that stays.
            copies = [p for p in children.read_text().split() if is_copy(p, process.pid)]
            time.sleep(0.1)
            worker = [p for p in copies if is_copy(p, process.pid)]
        os.kill(int(worker[0]), signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 2, said
        assert "worker" in said
        assert "--workers" in said
        assert "Traceback" not in said
        line.injected += 1
        line.survived += 1


def is_copy(pid: str, parent: int) -> bool:
    try:
        own, its = (Path(f"/proc/{p}/cmdline").read_bytes() for p in (pid, parent))
    except OSError:
        return False
    return own == its


def test_memory_is_flat(tmp_path: Path) -> None:
    peaks = {}
    for images in (10_000, MANY):
        out = tmp_path / str(images)
        script = (
            "import sys; from pathlib import Path; sys.path[:0] = sys.argv[3:];"
            "from test_extraction import measure; measure(Path(sys.argv[1]), int(sys.argv[2]))"
        )
        paths = [str(Path(__file__).parent), *sys.path]
        done = subprocess.run(
            [sys.executable, "-c", script, str(out), str(images), *paths],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peaks[images] = json.loads(done.stdout.splitlines()[-1])
    print(peaks)
    assert peaks[MANY] - peaks[10_000] < 100 * 2**20


def measure(out: Path, images: int) -> None:
    """Extract generated images, and print the peak of this process's memory in bytes."""
    torch.set_num_threads(1)
    extract_to_folder(
        Extractor(tiny_network(), device="cpu", transform=to_tensor),
        Generated(images, bad=1000),
        out,
        batch_size=256,
        progress=False,
    )
    peak = peak_bytes(torch.device("cpu"))
    assert len(load_features(out)) == images - images // 1000
    print(peak)
