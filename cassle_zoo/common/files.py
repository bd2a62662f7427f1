"""Atomic writes of files and folders, hashes, and JSON from untrusted sources."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import ConfigError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_NOT_TEXT = re.compile("[\ud800-\udfff]")


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """Write a file that is either the old one or the new one, never half of it.

    A link is followed. A pipe or device is written to directly, since no file can take its place.

    Args:
        path: The file; its folder must exist.
        sync: Whether to flush to the disk first, so that this holds even if the power fails.

    Yields:
        A path in the same folder to write to. It becomes `path` when the block ends, and is removed
        if the block raises. Its name is short, since that of `path` may have the maximum length,
        and unique, since other processes may be writing the same file.

    Raises:
        OSError: If it cannot be written; `path` does not change.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    partial = path.parent / f".partial-{secrets.token_hex(8)}"
    try:
        yield partial
        if sync:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        # A second failure must not take the place of the first, which says why.
        with suppress(OSError):
            partial.unlink()


def named_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return a path that is not empty, since to `Path` that would be the current folder.

    Args:
        path: The path.
        name: The argument that gives it, for the message.

    Raises:
        ConfigError: If it is empty.
    """
    if not os.fspath(path):
        raise ConfigError(f"{name} is an empty path; write '.' if you mean the current folder.")
    return Path(path)


def expand_home(path: str | Path) -> Path:
    """Return a path with a leading `~` or `~USER` replaced by that user's home folder.

    Raises:
        ConfigError: If there is no such folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{str(path)!r}: no such home folder is known; write the path in full."
        ) from None


def remove_partials(folder: str | Path) -> None:
    """Remove the remains of :func:`atomic_write` and :func:`atomic_folder` in a killed process.

    Args:
        folder: The folder written to; may be missing. No other process may be writing there.
    """
    for path in Path(folder).glob(".partial-*"):
        if not re.fullmatch(r"\.partial-[0-9a-f]{16}", path.name):
            continue  # somebody else's
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Write a folder that is either the old one or the new one; its parents are created.

    Args:
        folder: The folder; its former content is removed.

    Yields:
        An empty folder beside it, which becomes `folder` when the block ends, and is removed if the
        block raises.

    Raises:
        OSError: If it cannot be written; `folder` does not change.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(8)
    staged = folder.parent / f".partial-{mark}"
    try:
        staged.mkdir()
        yield staged
        if not folder.exists():
            os.replace(staged, folder)
            return
        old = folder.parent / f".old-{mark}"
        os.replace(folder, old)
        try:
            os.replace(staged, folder)
        except OSError:
            os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        _name(error, folder)
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _name(error: OSError, path: Path) -> None:
    """Say what did not fit on the disk, as the system does not."""
    if error.errno in DISK_FULL and error.filename is None:
        error.filename = str(path)


def check_folder(folder: Path, option: str) -> None:
    """Check that files can be written to a folder, which is created if it does not exist.

    Args:
        folder: The folder.
        option: The option that chooses another folder, for the message.

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


def write_bytes(path: str | Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file as :func:`atomic_write` does."""
    with atomic_write(path, sync=sync) as partial:
        partial.write_bytes(content)


def write_text(path: str | Path, text: str, *, sync: bool = False) -> None:
    """Write a UTF-8 text as :func:`atomic_write` does."""
    write_bytes(path, text.encode(), sync=sync)


def write_json(path: str | Path, value: Any, *, sync: bool = False) -> None:
    """Write JSON with indentation as :func:`atomic_write` does; keys stay in their order."""
    write_text(path, to_json(value), sync=sync)


def to_json(value: Any) -> str:
    """Return JSON as in this library's files: indented by two, UTF-8, with a final newline.

    Bytes of file names that are not UTF-8 are escaped, so that they can be written and read again.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _NOT_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ValueError: If it is not JSON, or JSON of another kind.
        OSError: If the file cannot be read.
    """
    return parse_json(Path(path).read_text(encoding="utf-8"))


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


def sha256(content: bytes | str | Path) -> str:
    """Return the SHA-256 of bytes, of a text in UTF-8, or of a file, as 64 hexadecimal digits.

    Raises:
        OSError: If the file cannot be read.
    """
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    return hashlib.sha256(content).hexdigest()
