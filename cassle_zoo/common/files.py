"""Reading JSON objects that anybody may have written. Needs no torch."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ValueError: If it is not JSON, or JSON of another kind.
        OSError: If the file cannot be read.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> dict[str, Any]:
    """Read a JSON object from a text.

    Raises:
        ValueError: If it is not JSON, or JSON of another kind.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it is not an object, but {str(value)[:40]}")
    return value
