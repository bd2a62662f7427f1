"""Errors; their messages name the offending value, the alternatives and the fix.

Every error that a user can cause derives from :class:`CassleZooError`, and from the built-in
exception that callers would expect for the same mistake.
"""

import difflib
from collections.abc import Iterable

_FEW = 12  # names that a message lists completely


class CassleZooError(Exception):
    """Base of all errors raised by cassle_zoo on purpose.

    Examples:
        >>> try:
        ...     cassle_zoo.create_model("resnet18_casle_simclr")
        ... except cassle_zoo.CassleZooError as error:
        ...     print(type(error).__name__, isinstance(error, ValueError))
        UnknownNameError True
    """


class ConfigError(CassleZooError, ValueError):
    """A setting has a value that is not allowed."""


class FolderInUseError(ConfigError):
    """Another process is using the folder."""


class UnknownNameError(CassleZooError, ValueError):
    """A name (of a model, method, task, ...) does not exist."""


class WeightsUnavailableError(CassleZooError, RuntimeError):
    """Pretrained weights are not published or cannot be downloaded."""


class ChecksumError(CassleZooError, RuntimeError):
    """A file does not have the published content."""


class ModelFolderError(CassleZooError, RuntimeError):
    """A model folder is incomplete, or its files contradict each other."""


class TimmFolderError(ModelFolderError):
    """A model folder or repository was written by timm, and has nothing of cassle_zoo."""


class CheckpointError(CassleZooError, RuntimeError):
    """A checkpoint of other code is unsafe to read, or not recognised."""


class DataError(CassleZooError, RuntimeError):
    """Input data cannot be read or cannot be used."""


class HubError(CassleZooError, RuntimeError):
    """The Hugging Face Hub refused a request, or could not be reached."""


class MissingDependencyError(CassleZooError, ImportError):
    """An optional dependency is missing; the message names the extra that installs it."""


class NotEnoughMemoryError(CassleZooError, MemoryError):
    """A run does not fit into the memory of the machine or its GPU."""


class StorageError(CassleZooError, OSError):
    """A file cannot be written: the disk is full, a limit is reached, or it is not allowed."""


class ProcessLostError(CassleZooError, RuntimeError):
    """One of the processes that train together, or the network between them, has failed."""


class NonFiniteLossError(CassleZooError, RuntimeError):
    """The training loss became NaN or infinite."""


def reason_of(error: BaseException) -> str:
    """Return what an error of any class says, in one line without a full stop."""
    # The system's words alone, since messages name the file themselves.
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return str(text).rstrip(".")


def unknown_name(
    kind: str, value: object, options: Iterable[str], *, listed_by: str | None = None
) -> UnknownNameError:
    """Build the error for a name that does not exist, with the nearest names that do.

    Args:
        kind: The kind of name, for example ``"model"``.
        value: The name as given, or what was given in its place.
        options: All names that exist.
        listed_by: The command that lists all names, if there is one.

    Returns:
        The error, for the caller to raise.
    """
    names = sorted(set(options))
    text = str(value)
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    if listed_by is not None:
        others = f"{listed_by} lists all names."
    elif len(names) <= _FEW:
        others = f"Available: {', '.join(names)}."
    else:
        nearest = difflib.get_close_matches(text, names, n=5, cutoff=0.0)
        others = f"The nearest of {len(names)} names: {', '.join(nearest)}."
    return UnknownNameError(f"Unknown {kind} {value!r}.{hint} {others}")
