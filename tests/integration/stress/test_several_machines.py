"""Faults under torchrun: workers killed, and the link between two machines cut."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stress_run
from stress_run import CHECKPOINT_EVERY
from stress_runs import DICE, EPOCHS, KILLS, checkpoint_time, differences, steps_logged

pytestmark = pytest.mark.slow

TIMES = max(2, KILLS // 10)  # a restart takes some ten seconds
SCRIPT = Path(stress_run.__file__)
TIMEOUT = 6  # seconds that a process waits for the others
PAUSE = 0.1  # seconds between steps, so that the run lasts longer than all faults


def torchrun(images: Path, out: Path, *options: str, pause: float = 0, prefix: Any = ()) -> Any:
    """Start torchrun; what it prints goes to a file beside the run."""
    command = [
        *prefix, sys.executable, "-m", "torch.distributed.run", "--max-restarts", "30", *options,
        *map(str, (SCRIPT, images, out, EPOCHS, TIMEOUT, pause)),
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
        before = checkpoint_time(out)

        def written(before: int = before) -> bool:
            return process.poll() is not None or checkpoint_time(out) not in (before, 0)

        wait_for(written, "a checkpoint")


def workers(process: Any) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in two processes that nothing happened to."""
    out = tmp_path_factory.mktemp("alone") / "run"
    process = torchrun(images, out, "--standalone", "--nproc-per-node", "2")
    assert process.wait(300) == 0, logs(out)[-3000:]
    return out


def restarts(out: Path) -> list[int]:
    """The steps after which the run was continued."""
    return [int(step) for step in re.findall(r"continuing after step (\d+)", logs(out))]


def disturb(out: Path, process: Any, line: Any, fault: Callable[[], Any]) -> None:
    """Let a fault happen at a random moment, and wait until the run continues after it."""
    wait_for_progress(out, process)
    assert process.poll() is None, f"it ended before the fault: {logs(out)[-3000:]}"
    step = steps_logged(out) + DICE.randrange(CHECKPOINT_EVERY)
    wait_for(lambda: process.poll() is not None or steps_logged(out) >= step, "a step")
    time.sleep(DICE.uniform(0, 0.3))
    before, done = len(restarts(out)), 0
    fault()
    line.injected += 1

    def restarted() -> bool:
        nonlocal done
        done = max(done, steps_logged(out))
        return len(restarts(out)) > before

    wait_for(restarted, "the restart")
    lost = done - restarts(out)[before]
    assert lost <= CHECKPOINT_EVERY
    line.steps_lost += lost
    line.survived += 1


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_killed_workers(images: Path, tmp_path: Path, alone: Path, row: Any) -> None:
    line = row("torchrun: worker killed")
    out = tmp_path / "run"
    process = torchrun(images, out, "--standalone", "--nproc-per-node", "2", pause=PAUSE)
    try:
        for _ in range(TIMES):
            disturb(
                out, process, line, lambda: os.kill(DICE.choice(workers(process)), signal.SIGKILL)
            )
        assert process.wait(300) == 0, logs(out)[-3000:]
    finally:
        process.terminate()
    line.else_lost = differences(out, alone)
    assert line.else_lost == 0
    assert "ProcessLostError" in logs(out)


@pytest.fixture
def machines() -> Iterator[Callable[[str], None]]:
    """Two network namespaces, `cza` and `czb`, and a switch; call with `up` or `down`: b's link."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root, and ip (Debian and Ubuntu: iproute2)")

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no network namespaces: ip {' '.join(words)}: {done.stderr.strip()}")

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
    images: Path, tmp_path: Path, alone: Path, row: Any, machines: Callable[[str], None]
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
        processes.append(torchrun(images, out, *options, pause=PAUSE, prefix=prefix))

    def cut() -> None:
        machines("down")
        time.sleep(TIMEOUT + 4)
        machines("up")

    try:
        for _ in range(TIMES):
            disturb(out, processes[0], line, cut)
        for process in processes:
            assert process.wait(300) == 0, logs(out)[-3000:]
    finally:
        for process in processes:
            process.terminate()
    line.else_lost = differences(out, alone)
    assert line.else_lost == 0
    assert "ProcessLostError" in logs(out)
