"""Names of devices, copies to them, and which precision a machine's processor gains from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cassle_zoo.common import devices
from cassle_zoo.common.devices import autocast_dtype, pick_device, to_device


@pytest.fixture(autouse=True)
def forget_processor() -> None:
    devices._processor_vendor.cache_clear()


@pytest.mark.parametrize(
    ("vendor", "avx512", "amx", "native"),
    [
        ("GenuineIntel", True, True, True),
        ("GenuineIntel", True, False, False),
        ("AuthenticAMD", True, False, True),
        ("AuthenticAMD", False, False, False),
        (None, True, False, True),
    ],
)
def test_bf16_where_the_processor_is_faster_in_it(
    vendor: str | None,
    avx512: bool,
    amx: bool,
    native: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processors = tmp_path / "cpuinfo"
    if vendor is not None:
        processors.write_text(
            f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu avx512_bf16\n"
        )
    monkeypatch.setattr(devices, "_PROCESSORS", processors)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    dtype = autocast_dtype("auto", torch.device("cpu"))
    assert dtype == (torch.bfloat16 if native else None)
    assert autocast_dtype("bf16", torch.device("cpu")) == torch.bfloat16


@pytest.mark.parametrize("device", [None, "cuda", torch.device("cuda")])
def test_a_device_is_named_as_tensors_on_it_name_it(
    device: str | torch.device | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Models are then seen to be where they were sent, which of `cuda` and `cuda:0` torch denies.
    assert torch.device("cuda") != torch.device("cuda:0")
    second = SimpleNamespace(device=torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: second)
    assert pick_device(device) == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("source", "target", "waits"),
    [("cpu", "cuda", False), ("cuda", "cpu", True), ("mps", "cpu", True), ("cpu", "mps", True)],
)
def test_copies_that_could_be_read_too_early_are_waited_for(
    source: str, target: str, waits: bool
) -> None:
    asked: list[bool] = []

    def to(_: torch.device, *, non_blocking: bool) -> None:
        asked.append(non_blocking)

    x: Any = SimpleNamespace(device=torch.device(source), to=to)
    to_device(x, torch.device(target))
    assert asked == [not waits]
