"""What holds for every test: no network, no shared caches, the same random numbers."""

import os
import random
import shutil
import socket
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cassle_zoo.data.emoji64 import Record

_LOOPBACK = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None}
# What libraries read when they are imported is set here, not in a hook, because the conftest.py of
# a folder named on the command line is imported before any hook runs.
_scratch = tempfile.mkdtemp(prefix="cassle-zoo-tests-")
os.environ["HF_HOME"] = os.path.join(_scratch, "hf_home")
os.environ["TORCH_HOME"] = os.path.join(_scratch, "torch_home")
os.environ.pop("HF_TOKEN", None)
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads cost more than they give


class NetworkBlockedError(RuntimeError):
    """A test tried to reach another machine (no OSError: code that expects those hides them)."""


def pytest_configure() -> None:
    """Cut the network off."""
    _block_network()


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(_scratch, ignore_errors=True)


def _block_network() -> None:
    """Let sockets reach this machine only."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    getaddrinfo = socket.getaddrinfo

    def check(host: Any) -> None:
        if isinstance(host, bytes):
            host = host.decode()
        if host not in _LOOPBACK:
            raise NetworkBlockedError(f"tests must not use the network, but asked for {host!r}")

    def check_address(sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            check(address[0])

    def checked_connect(self: socket.socket, address: Any) -> None:
        check_address(self, address)
        connect(self, address)

    def checked_connect_ex(self: socket.socket, address: Any) -> int:
        check_address(self, address)
        return connect_ex(self, address)

    def checked_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        check(host)
        return getaddrinfo(host, *args, **kwargs)

    setattr(socket.socket, "connect", checked_connect)  # noqa: B010  assignments that mypy accepts
    setattr(socket.socket, "connect_ex", checked_connect_ex)  # noqa: B010
    socket.getaddrinfo = checked_getaddrinfo


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed the global generators of whatever is imported; tests of numbers use their own."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def records() -> "list[Record]":
    from tiny_emoji64 import make_records

    return make_records()


@pytest.fixture(scope="session")
def emoji_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny dataset with the structure of emoji64."""
    from tiny_emoji64 import write_folder

    root = tmp_path_factory.mktemp("emoji64")
    write_folder(root)
    return root


@pytest.fixture(scope="session")
def emoji_tar(emoji_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cassle_zoo.data.emoji64 import VENDORS

    path = tmp_path_factory.mktemp("tar") / "emoji64.tar"
    with tarfile.open(path, "w") as archive:
        for name in ["metadata.csv", *(f"{vendor}/" for vendor in VENDORS)]:
            archive.add(emoji_folder / name, name)
    return path
