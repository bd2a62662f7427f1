import socket
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from cassle_zoo.common import hub_client
from cassle_zoo.common.errors import unknown_name


def test_few_names_are_all_listed() -> None:
    text = str(unknown_name("fruit", "aple", ["kiwi", "apple"]))
    assert text == "Unknown fruit 'aple'. Did you mean 'apple'? Available: apple, kiwi."


def test_of_many_names_the_near_ones_are_listed() -> None:
    names = [f"network{number}" for number in range(100)]
    text = str(unknown_name("network", "network42x", names))
    assert "Did you mean 'network42'" in text
    assert "The nearest of 100 names: network42, " in text
    assert text.count("network") < 12


def test_what_is_no_name_is_named_too() -> None:
    text = str(unknown_name("precision", torch.bfloat16, ["bf16", "fp32"]))
    assert text.startswith("Unknown precision torch.bfloat16. ")
    assert "Available: bf16, fp32." in text


def test_the_command_that_lists_all_stands_for_the_names() -> None:
    text = str(unknown_name("fruit", "zzz", ["pear", "apple"], listed_by="fruit list"))
    assert text == "Unknown fruit 'zzz'. fruit list lists all names."


def test_the_hub_is_reachable_without_names_of_services(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_etc_services(_host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        if isinstance(port, str) and not port.isdecimal():
            raise socket.gaierror(-8, "Servname not supported for ai_socktype")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", without_etc_services)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_client, "getproxies", dict)
    for address in ("https://hub.example", "http://127.0.0.1:8000"):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert not hub_client.is_unreachable()
