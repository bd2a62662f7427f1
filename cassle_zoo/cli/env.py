"""``cassle-zoo env``: versions and hardware, as asked for in bug reports."""

import argparse
import importlib.metadata
import json
import os
import platform
import re
from typing import Any

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.common.terminal import busy
from cassle_zoo.version import __version__


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "env",
        help="show versions and hardware, for a bug report",
        description="Show the versions of cassle-zoo and its dependencies, and the hardware. "
        "Names no user, host or folder.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> ExitStatus:
    with busy("asking torch"):
        facts = environment()
    if args.json:
        print(json.dumps(facts, indent=2))
        return ExitStatus.OK
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return ExitStatus.OK


def environment() -> dict[str, str]:
    """Return names and values: software first, then hardware, then what changes behaviour."""
    import torch

    from cassle_zoo.common.workers import usable_cores
    from cassle_zoo.records import code_version

    facts = {
        "cassle-zoo": __version__,
        "commit": code_version()["commit"] or "none: installed as a package",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        **{name: installed_version(name) for name in _dependencies()},
        "cpu": f"{usable_cores()} cores usable, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "gpu": _gpus(),
        "cuda of torch": torch.version.cuda or "none",
        "bf16": _bf16(),
    }
    settings = ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE")
    return facts | {name: "set" for name in settings if name in os.environ}


def _gpus() -> str:
    import torch

    try:
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:  # counted by the driver, but torch cannot start
        return f"unusable: {str(error).splitlines()[0]}"
    return ", ".join(names) or "none"


def _bf16() -> str:
    from cassle_zoo.common.devices import autocast_dtype, pick_device

    try:
        native = autocast_dtype("auto", pick_device())
    except ConfigError as error:  # a GPU that cannot be used belongs into the report, too
        return f"unknown: {error}"
    return "native" if native else "slower than fp32 here, so not used by default"


def _dependencies() -> list[str]:
    """Return what the package requires, with the extras last, each name once."""
    required = importlib.metadata.requires("cassle-zoo") or []
    required.sort(key=lambda line: "extra ==" in line)
    names = [re.split(r"[ ;<>=!\[]", line, maxsplit=1)[0] for line in required]
    return [name for name in dict.fromkeys(names) if name != "cassle-zoo"]


def installed_version(name: str) -> str:
    """Return the version of a package, or that there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
