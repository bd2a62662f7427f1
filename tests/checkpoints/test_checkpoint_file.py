"""Foreign checkpoints are read without running anything in them."""

import argparse
import os
import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import write_tar
from safetensors.torch import save_file

from cassle_zoo.checkpoints.checkpoint_file import DICT_TYPES, INERT_TYPES, Inert, read_checkpoint
from cassle_zoo.common.errors import CheckpointError


class Runs:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, pickle.loads])
def test_a_malicious_file_is_refused_and_runs_nothing(
    tmp_path: Path, function: Any, legacy: bool
) -> None:
    witness = tmp_path / "ran"
    calls = {
        os.system: (f"touch {witness}",),
        eval: (f"open({str(witness)!r}, 'w')",),
        exec: (f"open({str(witness)!r}, 'w')",),
        __import__: ("antigravity",),
        pickle.loads: (pickle.dumps(Runs(os.system, f"touch {witness}")),),
    }
    checkpoint = {
        "backbone": {"conv1.weight": torch.zeros(1)},
        "projector": {"projector.0.weight": torch.zeros(1)},
        "trainer": Runs(function, *calls[function]),
    }
    path = tmp_path / "ckpt.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="is not read"):
        read_checkpoint(path)
    assert not witness.exists()
    assert "antigravity" not in sys.modules


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def old_tar(path: Path) -> None:
    names = ("sys_info", "pickle", "tensors", "storages")
    write_tar(path, dict.fromkeys(names, pickle.dumps({})))


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}, protocol=4))


@pytest.mark.parametrize("write", [torchscript, old_tar, bare_pickle])
def test_the_refusal_does_not_advise_to_run_code(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "ckpt.pth")
    with pytest.raises(CheckpointError, match=r"may run code.*save the weights") as caught:
        read_checkpoint(tmp_path / "ckpt.pth")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "tensor", [torch.empty(3, device="meta"), torch.zeros(1).expand(2**40)], ids=["meta", "repeats"]
)
def test_tensors_without_content_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    loop: list[Any] = [{"model": (tensor,)}]
    loop.append(loop)
    torch.save({"epochs": [1], "models": loop}, tmp_path / "ckpt.pth")
    with pytest.raises(CheckpointError, match=r"shape \(\d+,\).*not its content"):
        read_checkpoint(tmp_path / "ckpt.pth")


def test_the_refusal_names_the_type_and_a_way_out(tmp_path: Path) -> None:
    torch.save({"state_dict": torch.nn.Linear(2, 2)}, tmp_path / "ckpt.pth")
    with pytest.raises(CheckpointError, match=r"refers to torch\.nn.*Linear.*save the weights"):
        read_checkpoint(tmp_path / "ckpt.pth")


def save_foreign(path: Path, full_name: str, base: type) -> None:
    """Save an object of a class of that name, whether or not its library is installed."""
    module_name, _, name = full_name.rpartition(".")
    cls = type(name, (base,), {"__module__": module_name})
    value = cls()
    if isinstance(value, dict):
        value["lr"] = 0.1
    else:
        value.content = {"lr": 0.1}
    parts = module_name.split(".")
    names = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    missing = [name for name in names if name == module_name or name not in sys.modules]
    modules = {name: types.ModuleType(name) for name in missing}
    setattr(modules[module_name], name, cls)
    with pytest.MonkeyPatch.context() as patch:
        for module, stub in modules.items():
            patch.setitem(sys.modules, module, stub)
        torch.save({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": value}, path)


@pytest.mark.parametrize("name", DICT_TYPES)
def test_lightnings_dictionaries_need_no_lightning(tmp_path: Path, name: str) -> None:
    save_foreign(tmp_path / "c.ckpt", name, dict)
    found = read_checkpoint(tmp_path / "c.ckpt")["hyper_parameters"]
    assert found == OrderedDict(lr=0.1)


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in INERT_TYPES if name.startswith("omegaconf.")),
        "pathlib._local.PurePosixPath",  # of Python 3.13
    ],
)
def test_objects_of_modules_that_are_missing_are_left_out(tmp_path: Path, name: str) -> None:
    save_foreign(tmp_path / "c.ckpt", name, object)
    found = read_checkpoint(tmp_path / "c.ckpt")
    assert isinstance(found["hyper_parameters"], Inert)
    assert found["state_dict"]["w"].tolist() == [1, 1]


def test_settings_of_other_libraries_are_left_out(tmp_path: Path) -> None:
    settings = {
        "namespace": argparse.Namespace(lr=0.1),
        "path": Path("a/b"),
        "scalar": np.float64(0.5),
        "array": np.arange(3),
        "cache": defaultdict(dict),
        "type": dict,
    }
    torch.save({**settings, "epoch": 3}, tmp_path / "c.ckpt")
    found = read_checkpoint(tmp_path / "c.ckpt")
    assert found["epoch"] == 3
    for key in set(settings) - {"type"}:
        assert isinstance(found[key], Inert), key
    assert found["type"] is Inert


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pth is (damaged|not read)"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.arange(3.0)}, path)
    assert read_checkpoint(path)["w"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="damaged, or no safetensors file"):
        read_checkpoint(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a file"):
        read_checkpoint(tmp_path)
