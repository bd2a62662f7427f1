"""The command that repeats a measurement, as results may show it: without the user's folders."""

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

_OWN = ("cache", "no_cache", "progress")  # bear on no number


def public_command(
    task: str, model: str, data: Path, *, dataset: str | None, download: bool, settings: list[Any]
) -> str:
    """Write the command for one model; only what is not the default is in it.

    Args:
        task: Name of the evaluation.
        model: As on the command line.
        data: Where the dataset lies; its last part is shown.
        dataset: Its name; None for the default.
        download: Whether it may be fetched.
        settings: Dataclasses whose fields are options.
    """
    words = ["cassle-zoo", "eval", task, _without_folders(model), "--data", _last(data)]
    words += ["--dataset", dataset] if dataset is not None else []
    words += ["--download"] if download else []
    return shlex.join(words + [word for own in settings for word in _options(own)])


def _options(settings: Any, prefix: str = "") -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        make = field.default_factory
        default = field.default if make is dataclasses.MISSING else make()
        name = prefix + field.name.replace("_", "-")
        if value == default or field.name in _OWN:
            continue
        if dataclasses.is_dataclass(value):
            words += _options(value, f"{name}.")
        elif isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, tuple | list) else [value]
            words += [f"--{name}", *map(str, values)]
    return words


def _last(path: str | Path) -> str:
    return Path(os.path.abspath(path)).name


def _without_folders(model: str) -> str:
    prefix, colon, rest = model.partition(":")
    return f"{prefix}:{_last(rest)}" if colon and prefix in ("local-dir", "features") else model
