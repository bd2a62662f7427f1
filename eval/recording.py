"""Records results in files, so that none replaces the result of another measurement."""

import dataclasses
import json
import re
import tempfile
from pathlib import Path

from cassle_zoo.common.errors import ConfigError, DataError, StorageError
from cassle_zoo.common.files import sha256, write_bytes
from cassle_zoo.eval.base import Outcome
from cassle_zoo.records import Result

_CHOSEN = "chosen"  # parts of a protocol that were found, not set
_STRENGTHS = "strength/"
_MARK = 8  # hexadecimal digits


def is_file(output: Path) -> bool:
    """Return whether `output` names the file of a result, not a folder."""
    return output.suffix == ".json"


def check_folder(folder: Path, option: str) -> None:
    """Check that files can be written to a folder, which is made if it is not there.

    Args:
        folder: The folder.
        option: The option that chooses another one, for the message.

    Raises:
        ConfigError: If they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null byte
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"nothing can be written to the folder {str(folder)!r} ({reason}); choose another with "
            f"{option}."
        ) from error


def check_output(output: Path, models: int) -> None:
    """Check that the results of so many models can be written, before the work is done.

    Raises:
        ConfigError: If they cannot.
    """
    if not is_file(output):
        return check_folder(output, "-o")
    if models > 1:
        raise ConfigError(f"{output} is one file, but {models} models are measured; give a folder.")
    if output.is_dir():
        raise ConfigError(f"-o {output} ends in .json but is a folder; give it another name.")
    return check_folder(output.parent, "-o")


def measurement(result: Result) -> str:
    """Return a hash of what was measured, how and of what; not of the numbers found."""
    strengths = {k: v for k, v in result.series.items() if k.startswith(_STRENGTHS)}
    what = [
        result.task,
        dataclasses.asdict(result.model),
        dataclasses.asdict(result.data),
        result.seed,
        {k: v for k, v in result.protocol.items() if not k.startswith(_CHOSEN)},
        sorted((task, metric) for task, own in result.metrics.items() for metric in own),
        sorted(result.series),
        strengths,
    ]
    return sha256(json.dumps(what, sort_keys=True))


def place_for(output: Path, result: Result) -> tuple[Path, str]:
    """Choose the file of a result.

    Args:
        output: `FILE.json`, which is taken as it is, or a folder. There the file is named after
            task, data and model; if that one holds another measurement (other settings, weights,
            data or seed), a hash is added to the name.
        result: The result to be written.

    Returns:
        The file, and a remark on it for the user.
    """
    own = measurement(result)
    parts = (result.task, result.data.name, result.model.name)
    first = output if is_file(output) else output / f"{'--'.join(map(slug, parts))}.json"
    if not first.exists():
        return first, "recorded"
    if _measurement_in(first) == own:
        return first, "recorded again"
    if first == output:
        return first, "recorded in place of another measurement"
    marked = first.with_name(f"{first.stem}--{own[:_MARK]}.json")
    again = " again" if marked.exists() else ""
    return marked, f"recorded{again} beside {first.name}, which is another measurement"


def write(path: Path, result: Result, outcome: Outcome) -> None:
    """Write a result, and beside it the files of its outcome.

    Args:
        path: Of the JSON file.
        result: The result.
        outcome: Its outcome, whose files are written beside it.

    Raises:
        StorageError: If it cannot be written.
    """
    files = {f"{path.stem}.{slug(name)}": content for name, content in outcome.files.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(path.with_name(name), content)
        dataclasses.replace(result, files=list(files)).save(path)
    except OSError as error:
        raise StorageError(f"cannot record {path}: {error.strerror or error}.") from error


def slug(text: str) -> str:
    """Return a text as part of a file's name: letters, digits and `._-` only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def _measurement_in(path: Path) -> str | None:
    """Return :func:`measurement` of a recorded result; None of any other file."""
    try:
        return measurement(Result.load(path))
    except DataError:
        return None
