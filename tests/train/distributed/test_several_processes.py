"""Training under torchrun, in real processes over gloo, with BatchNorm in the backbone."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cassle_zoo.records import CHECKPOINT_FILE
from cassle_zoo.train.methods import METHODS

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent


def command(processes: int, script: str, *arguments: object) -> list[str]:
    torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {processes}"
    launcher = [*f"{torchrun} --max-restarts 1".split()] if processes > 1 else []
    return [sys.executable, *launcher, str(FOLDER / script), *map(str, arguments)]


def launch(processes: int, script: str, *arguments: object) -> str:
    """Run a script in so many processes; return what it wrote on stderr."""
    words = command(processes, script, *arguments)
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def run(processes: int, images: Path, out: Path) -> Path:
    launch(processes, "several_processes.py", images, out)
    return out


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {n: run(n, images, tmp_path_factory.mktemp(f"{n}-processes")) for n in (1, 2, 3)}


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "loss"]


@pytest.mark.parametrize("name", [*METHODS, "simclr-parts", "byol-parts", "adapting"])
@pytest.mark.parametrize("processes", [2, 3])
def test_same_as_one_process(runs: dict[int, Path], processes: int, name: str) -> None:
    assert json.loads((runs[processes] / "sizes.json").read_text())["processes"] == processes
    expected, found = (losses(runs[n] / name) for n in (1, processes))
    assert len(expected) == 10
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    left, right = (load_file(runs[n] / name / "final/backbone.safetensors") for n in (1, processes))
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], rtol=1e-3, atol=1e-4)


def test_a_dry_run_is_that_of_all_processes(images: Path) -> None:
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node 2 -m cassle_zoo"
    options = "--dry-run --run.device cpu --run.threads 1 --augment.size 32 --data.workers 0"
    train = f"train test_resnet_cassle_simclr {options} --data {images} --optim.batch-size"
    for size, status, says in (4, 0, "(5 per epoch)"), (5, 1, "cannot be divided evenly"):
        words = [sys.executable, *torchrun.split(), *train.split(), str(size)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == status, done.stderr[-3000:]
        assert says in done.stdout + done.stderr
        assert done.stdout.count("peak memory") == (status == 0)


def test_a_killed_worker_is_replaced(images: Path, tmp_path: Path) -> None:
    for fault in ("killed", "none"):
        text = launch(2, "restarting.py", images, tmp_path / fault, fault)
        assert ("continuing after step 7" in text) == (fault == "killed"), text[-3000:]
    for file in ("backbone.safetensors", "projector.safetensors"):
        left, right = (load_file(tmp_path / fault / "final" / file) for fault in ("killed", "none"))
        assert all(torch.equal(value, right[key]) for key, value in left.items())


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_signal_to_all_that_torchrun_hands_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = command(2, "restarting.py", images, out, "slow")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as torchrun:
        try:
            while not (out / CHECKPOINT_FILE).exists():
                assert torchrun.poll() is None
                time.sleep(0.05)
            workers = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text()
            for pid in (*map(int, workers.split()), torchrun.pid):  # as a queue does
                os.kill(pid, signal.SIGTERM)
            said = torchrun.communicate(timeout=120)[1]
        finally:
            torchrun.kill()
    stopped = re.search(r"stopped after step (\d+); the same command continues", said)
    assert stopped is not None, said[-3000:]
    assert torchrun.returncode == 1  # torchrun's own, whatever became of the processes
    text = launch(2, "restarting.py", images, out, "none")
    assert f"continuing after step {stopped[1]}." in text
