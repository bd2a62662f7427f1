"""Faults under torchrun: workers killed, and the link between two machines cut."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import DICE, differences, steps_logged

from cassle_zoo.train.checkpoint import LATEST

KILLS = max(2, int(os.environ.get("CASSLE_ZOO_KILLS", "50")) // 10)
CUTS = int(os.environ.get("CASSLE_ZOO_CUTS", "2"))
EPOCHS = "12"
TINY = Path(__file__).with_name("tiny.py")
TIMEOUT = 6


def torchrun(pictures: Path, out: Path, *options: str, pause: float = 0, prefix: Any = ()) -> Any:
    """Start torchrun; what it prints goes to a file beside the run."""
    command = [
        *prefix, sys.executable, "-m", "torch.distributed.run", "--max-restarts", "30", *options,
        str(TINY), str(pictures), str(out), EPOCHS, str(TIMEOUT), str(pause),
    ]  # fmt: skip
    name = f"{out.name}-{options[-1].replace(':', '_')}.log"
    with out.with_name(name).open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def logs(out: Path) -> str:
    return "".join(path.read_text() for path in out.parent.glob(f"{out.name}-*.log"))


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 180) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


def wait_for_progress(out: Path, process: Any) -> None:
    """Wait for two more checkpoints; return early if the run has ended."""
    for _ in range(2):
        before = (out / LATEST).stat().st_mtime_ns if (out / LATEST).exists() else 0
        wait_for(
            lambda b=before: (
                process.poll() is not None
                or ((out / LATEST).exists() and (out / LATEST).stat().st_mtime_ns != b)
            ),
            "a checkpoint",
        )


def workers(process: Any) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in two processes that nothing happened to."""
    out = tmp_path_factory.mktemp("alone") / "run"
    process = torchrun(pictures, out, "--standalone", "--nproc-per-node", "2")
    assert process.wait(300) == 0, logs(out)[-3000:]
    return out


def test_killed_workers(pictures: Path, tmp_path: Path, alone: Path, row: Any) -> None:
    line = row("torchrun: worker killed")
    out = tmp_path / "run"
    process = torchrun(pictures, out, "--standalone", "--nproc-per-node", "2", pause=0.1)
    while line.injected < KILLS:
        wait_for_progress(out, process)
        if process.poll() is not None:
            break
        time.sleep(DICE.uniform(0, 0.3))
        os.kill(DICE.choice(workers(process)), signal.SIGKILL)
        line.injected += 1
        line.steps_lost += wait_for_restart(out, line.injected)
        line.survived += 1
    assert process.wait(300) == 0, logs(out)[-3000:]
    line.else_lost = differences(out, alone)
    assert line.else_lost == 0


def wait_for_restart(out: Path, count: int) -> int:
    """Wait until the run continues for the so-manieth time; return the steps that were lost."""
    done = 0
    found: list[str] = []

    def restarted() -> bool:
        nonlocal done, found
        done = max(done, steps_logged(out))
        found = re.findall(r"continuing after step (\d+)", logs(out))
        return len(found) >= count

    wait_for(restarted, "the restart")
    return done - int(found[count - 1])


@pytest.fixture
def machines() -> Iterator[Callable[[str], None]]:
    """Two network namespaces, `cza` and `czb`, and a switch; call with `up` or `down`: b's link."""

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"network namespaces need root: ip {' '.join(words)}: {done.stderr}")

    def remove() -> None:
        for words in (["netns", "del", "cza"], ["netns", "del", "czb"], ["link", "del", "czs"]):
            subprocess.run(["ip", *words], capture_output=True, check=False)

    remove()
    try:
        ip("link", "add", "czs", "type", "bridge")
        ip("link", "set", "czs", "up")
        for number, name in enumerate("ab", start=1):
            space, inner, outer = f"cz{name}", f"czv{name}", f"czp{name}"
            ip("netns", "add", space)
            ip("link", "add", inner, "type", "veth", "peer", "name", outer)
            ip("link", "set", inner, "netns", space)
            ip("link", "set", outer, "master", "czs")
            ip("link", "set", outer, "up")
            ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", inner)
            ip("-n", space, "link", "set", inner, "up")
            ip("-n", space, "link", "set", "lo", "up")
        yield lambda state: ip("link", "set", "czpb", state)
    finally:
        remove()


def test_cut_link(
    pictures: Path, tmp_path: Path, alone: Path, row: Any, machines: Callable[[str], None]
) -> None:
    line = row("two machines: link cut, then restored")
    out = tmp_path / "run"
    processes = []
    for number, name in enumerate("ab", start=1):
        space = f"cz{name}"
        prefix = ["ip", "netns", "exec", space, "env", f"GLOO_SOCKET_IFNAME=czv{name}"]
        options = [
            "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "stress",
            "--rdzv-backend", "c10d", "--rdzv-conf", f"is_host={2 - number}",
            "--rdzv-endpoint", "10.77.0.1:29500", "--local-addr", f"10.77.0.{number}",
        ]  # fmt: skip
        processes.append(torchrun(pictures, out, *options, pause=0.1, prefix=prefix))
    try:
        while line.injected < CUTS:
            wait_for_progress(out, processes[0])
            assert processes[0].poll() is None, "it ended before the link was cut"
            time.sleep(DICE.uniform(0, 0.3))
            machines("down")
            line.injected += 1
            time.sleep(TIMEOUT + 4)
            machines("up")
            line.steps_lost += wait_for_restart(out, line.injected)
            line.survived += 1
        for process in processes:
            assert process.wait(300) == 0, logs(out)[-3000:]
    finally:
        for process in processes:
            process.kill()
    line.else_lost = differences(out, alone)
    assert line.else_lost == 0
