"""``cassle-zoo env`` and the JSON of list and info."""

import getpass
import importlib.metadata
import json
import socket
from pathlib import Path

import pytest
import torch

import cassle_zoo
from cassle_zoo.cli.env import environment
from cassle_zoo.cli.main import main
from cassle_zoo.version import __version__


def test_env_states_versions_and_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines if not line.startswith("cuda of torch"))
    assert rows["cassle-zoo"] == __version__
    for name in ("torch", "timm", "huggingface-hub", "numpy", "pillow"):
        assert rows[name] == importlib.metadata.version(name)
    assert rows["bf16"].startswith(("native", "slower"))
    assert "cores usable" in rows["cpu"]


def test_env_is_of_use_where_the_gpu_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert environment()["bf16"].startswith("unknown: device 'cuda'")

    def name(_: int) -> str:
        raise RuntimeError("The NVIDIA driver on your system is too old.\nUpdate it.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", name)
    assert environment()["gpu"] == "unusable: The NVIDIA driver on your system is too old."


def test_env_shows_nothing_private(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["env", "--json"]) == 0
    out = capsys.readouterr().out
    facts = json.loads(out)
    assert facts["HF_ENDPOINT"] == "set"
    for private in ("mirror", "hf_secret", str(Path.home()), str(Path.cwd()), socket.gethostname()):
        assert private not in out.replace(facts["system"], "")
    assert getpass.getuser() not in facts.values()


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "*resnet18*", "--pretrained", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)
    assert [model["full_name"] for model in models] == cassle_zoo.list_models(
        "*resnet18*", pretrained=True
    )
    assert all(model["released"] for model in models)


def test_a_list_of_nothing_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "absent", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == []
    assert "no model matches 'absent'" in err


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "resnet18_cassle_simclr", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["input_size"] == [3, 64, 64]
    assert facts["sha256"]["model.safetensors"]
