"""docs/train.slurm, with stand-ins for SLURM's programs that note how they are called."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "docs" / "train.slurm"
STAND_INS = {
    "scontrol": """
[ "$1" = show ] && printf 'node7\nnode8\n' || echo "scontrol $*" >> log""",
    "srun": """
echo "srun cpus=$SRUN_CPUS_PER_TASK $*" >> log
trap 'echo stopped >> log; exit 1' TERM
echo $$ > srun.pid
for i in $(seq "$STEPS"); do sleep 0.05; done
exit "$STATUS\"""",
    "scancel": """
echo "scancel $*" >> log
kill -TERM "$(cat srun.pid)\"""",
}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of two nodes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_ID": "123456", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "12",
        "SLURM_GPUS_PER_NODE": "a100:2", "STEPS": "1", "STATUS": "0",
    }  # fmt: skip


def start(job: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    words = ["bash", str(SCRIPT), "RECIPE", "my data", "OUT", "--optim.epochs", "3"]
    return subprocess.Popen(words, cwd=folder, env=job)


@pytest.mark.parametrize("status", [0, 3])
def test_what_srun_is_told_and_its_status(job: dict[str, str], tmp_path: Path, status: int) -> None:
    assert start({**job, "STATUS": str(status)}, tmp_path).wait(60) == status
    assert (tmp_path / "log").read_text() == (
        "srun cpus=12 torchrun --nnodes 2 --nproc-per-node gpu --max-restarts 3 "
        "--rdzv-backend c10d --rdzv-endpoint node7:23456 --rdzv-id 123456 "
        "-m cassle_zoo train RECIPE --data my data --out OUT --optim.epochs 3\n"
    )


def test_time_limit_stops_the_run_and_requeues_the_job(job: dict[str, str], tmp_path: Path) -> None:
    process = start({**job, "STEPS": "1000"}, tmp_path)
    while not (tmp_path / "srun.pid").exists() or not (tmp_path / "srun.pid").read_text():
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 0
    assert (tmp_path / "log").read_text().splitlines()[1:] == [
        "scancel --signal=TERM 123456", "stopped", "scontrol requeue 123456",
    ]  # fmt: skip
