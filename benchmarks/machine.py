"""The machine that something is measured on."""

import os
import platform
from pathlib import Path
from typing import Any

from cassle_zoo.common.workers import usable_cores


def machine() -> dict[str, Any]:
    """Describe the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = dict(line.partition(":")[::2] for line in lines if ":" in line)
    cpu = {key.strip(): value.strip() for key, value in fields.items()}
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "instructions": [name for name in wanted if name in cpu.get("flags", "").split()],
        "cores": usable_cores(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all cores"),
        "load": list(os.getloadavg()),
        "system": platform.platform(),
    }
