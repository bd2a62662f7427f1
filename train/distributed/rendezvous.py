"""A store of their own for the processes of one start of `torchrun`.

torchrun's agent keeps one store through all restarts, in which processes that start again can find
the addresses of those that died, and then wait for them (pytorch issue 135712; the number of
restarts is no remedy, as each machine counts its own). So the processes first agree on a name that
no earlier start has used, and keep to keys under that name.
"""

import datetime
import os
import time
import uuid
from typing import Any, Protocol

import torch.distributed as dist

from cassle_zoo.common.errors import CassleZooError

_PAUSE = 0.02


class Store(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str) -> None:
        """Keep a value."""

    def get(self, key: str) -> bytes:
        """Return a value that is there."""

    def check(self, keys: list[str]) -> bool:
        """Return whether all are there."""


def fresh_store(timeout: float) -> Any:
    """Return a store without keys of earlier starts, the same one in all processes.

    Args:
        timeout: Seconds that a process waits for the others.

    Returns:
        The store; `None` if torchrun shares none, and process 0 opens a new one at each start.

    Raises:
        CassleZooError: If a process has not come in time.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    shared = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=datetime.timedelta(seconds=timeout),
    )
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    name = agree(shared, rank, count, timeout)
    return dist.PrefixStore(name, shared)  # type: ignore[attr-defined]


def agree(store: Store, rank: int, count: int, timeout: float) -> str:
    """Agree with the other processes on a name that was never used before.

    Each process but the first leaves a word, overwriting its predecessor's, and waits for the
    answer to this very word, which only a living process 0 can give.

    Args:
        store: What the processes share; it may hold keys of processes that died.
        rank: Number of this process.
        count: Number of processes.
        timeout: Seconds to wait.

    Returns:
        The name that process 0 chose.

    Raises:
        CassleZooError: If another process has not come in time.
    """
    own = uuid.uuid4().hex
    end = time.monotonic() + timeout
    if rank:
        store.set(f"word/{rank}", own)
        _wait(store, f"answer/{own}", end, "process 0 has not answered")
        name = store.get(f"answer/{own}").decode()
        store.set(f"{name}/heard by/{rank}", "")
        return name
    missing = set(range(1, count))
    while missing:
        for other in sorted(missing):
            if store.check([f"word/{other}"]):
                store.set(f"answer/{store.get(f'word/{other}').decode()}", own)
        missing = {other for other in missing if not store.check([f"{own}/heard by/{other}"])}
        if missing and time.monotonic() > end:
            raise CassleZooError(
                f"process {min(missing)} of {count} has not come in {timeout:g} seconds "
                "(--run.timeout); is its machine up and its network open?"
            )
        time.sleep(_PAUSE)
    return own


def _wait(store: Store, key: str, end: float, trouble: str) -> None:
    while not store.check([key]):
        if time.monotonic() > end:
            raise CassleZooError(f"{trouble}; is its machine up and its network open?")
        time.sleep(_PAUSE)
