"""Training under torchrun, in real processes over gloo, with BatchNorm in the backbone."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cassle_zoo.train.methods import METHODS

SCRIPT = Path(__file__).with_name("several_processes.py")


def run(processes: int, pictures: Path, out: Path) -> Path:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*(launcher if processes > 1 else []), str(SCRIPT), str(pictures), str(out)]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def runs(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {n: run(n, pictures, tmp_path_factory.mktemp(f"{n}-processes")) for n in (1, 2, 3)}


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "loss"]


@pytest.mark.parametrize("name", METHODS)
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
