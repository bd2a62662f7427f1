"""Recorded results: one JSON file per evaluated model, with all that is needed to repeat it."""

import datetime
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.files import parse_json

SCHEMA = 1

_TYPES: Mapping[str, type] = {
    "task": str,
    "model": dict,
    "data": dict,
    "protocol": dict,
    "metrics": dict,
    "seed": int,
    "versions": dict,
    "command": str,
    "seconds": dict,
    "created": str,
    "series": dict,
    "files": list,
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one evaluation of one model gave.

    Attributes:
        task: The evaluation, for example ``"emoji64"``.
        model: ``name``, and ``sha256`` of its weights (None if it has no weights).
        data: ``name`` and ``sha256`` of the dataset.
        protocol: How it was measured, by part.
        metrics: Values by sub-task and metric; accuracies and recalls are in [0, 1].
        seed: Seed of whatever was random.
        versions: Versions of the software that took part.
        command: What to run to measure it again.
        seconds: How long each part took.
        created: When, in UTC (ISO 8601).
        series: Curves by name, for figures.
        files: Names of images and pages that were written beside the result.
    """

    task: str
    model: dict[str, str | None]
    data: dict[str, str]
    protocol: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    seed: int
    versions: dict[str, str]
    command: str
    seconds: dict[str, float]
    created: str
    series: dict[str, list[float]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Write as JSON; equal results give equal text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "result") -> "Result":
        """Read what :meth:`to_json` wrote.

        Args:
            text: The JSON text.
            source: What to call it in error messages.

        Raises:
            DataError: If it is not JSON, of another schema, incomplete, or holds a value of a
                wrong type or a metric that is not finite.
        """
        try:
            content = parse_json(text)
        except ValueError as error:
            raise DataError(f"{source} is not a JSON object: {error}.") from error
        schema = content.pop("schema", None)
        if schema != SCHEMA:
            raise DataError(
                f"{source} has schema {schema!r}, this version reads {SCHEMA}; "
                "record it anew with `cassle-zoo eval`."
            )
        _check(content, source)
        return cls(**content)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file; an existing one is replaced only by a complete one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        try:
            partial.write_text(self.to_json(), encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Result":
        """Read from a file.

        Raises:
            DataError: See :meth:`from_json`; also if the file cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        return cls.from_json(text, str(path))


def software_versions() -> dict[str, str]:
    """Return the versions of Python and the packages that decide about numbers."""
    import timm
    import torch

    import cassle_zoo

    return {
        "cassle_zoo": cassle_zoo.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def now_utc() -> str:
    """Return the time as recorded in :attr:`Result.created`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _check(content: Mapping[str, Any], source: str) -> None:
    names = {field.name for field in fields(Result)}
    needed = {f.name for f in fields(Result) if f.default_factory is MISSING}
    if not needed <= set(content) <= names:
        missing = ", ".join(sorted(needed - set(content))) or "nothing"
        extra = ", ".join(sorted(set(content) - names)) or "nothing"
        raise DataError(f"{source} lacks {missing} and has {extra} that is unknown.")
    for name in content:
        kind, value = _TYPES[name], content[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{source}: {name} is {value!r}, expected {kind.__name__}.")
    for part, kinds in {"model": (str, NoneType), "data": (str,)}.items():
        own = content[part]
        if set(own) != {"name", "sha256"} or not (
            isinstance(own["name"], str) and isinstance(own["sha256"], kinds)
        ):
            raise DataError(f"{source}: {part} is {own!r}, expected name and sha256.")
    for task, metrics in content["metrics"].items():
        if not isinstance(metrics, dict):
            raise DataError(f"{source}: metrics of {task} are {metrics!r}, expected an object.")
        for metric, value in metrics.items():
            if not _is_number(value):
                raise DataError(f"{source}: {task} {metric} is {value!r}, expected a number.")
    for name, value in content["seconds"].items():
        if not _is_number(value):
            raise DataError(f"{source}: seconds of {name} are {value!r}, expected a number.")
    for name, values in content.get("series", {}).items():
        if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
            raise DataError(f"{source}: series {name} is {values!r}, expected a list of numbers.")
    for name in content.get("files", []):
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError(f"{source}: {name!r} is not the name of a file beside the result.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
