"""What conftest.py promises to every other test."""

import os
import socket
import tempfile

import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.org", 443)])
def test_other_machines_cannot_be_reached(address: tuple[str, int]) -> None:
    with pytest.raises(RuntimeError, match="must not use the network"):
        socket.create_connection(address, timeout=1)
    with socket.socket() as client, pytest.raises(RuntimeError, match="must not use the network"):
        client.connect_ex(address)


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()


def test_hub_cache_is_a_scratch_folder() -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_CACHE.startswith(tempfile.gettempdir())
    assert constants.HF_HUB_CACHE.startswith(os.environ["HF_HOME"])
