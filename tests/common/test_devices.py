"""Which precision a machine's processor gains from."""

from pathlib import Path

import pytest
import torch

from cassle_zoo.common import devices
from cassle_zoo.common.devices import autocast_dtype


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
