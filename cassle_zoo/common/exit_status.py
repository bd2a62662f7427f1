"""The exit statuses of all commands: the one place that says which there are."""

from enum import IntEnum
from typing import Self


class ExitStatus(IntEnum):
    """What a command tells the shell; docs/commands.md shows the same table.

    Attributes:
        meaning: In words, for help texts.
    """

    meaning: str

    OK = 0, "done"
    INCOMPLETE = 1, "done, but something was left out, or a check failed"
    ERROR = 2, "wrong usage, or an error that a message on stderr explains"
    BUG = 70, "a bug, with a traceback to report"  # as BSD's sysexits.h; Python's own would be 1
    INTERRUPTED = 130, "interrupted from the keyboard"
    BROKEN_PIPE = 141, "the reader of the output went away"  # what shells report for any program
    STOPPED = 143, "stopped by a signal after saving; the same command continues"

    def __new__(cls, value: int, meaning: str) -> Self:
        """Make a status of its number and its meaning."""
        status = int.__new__(cls, value)
        status._value_ = value
        status.meaning = meaning
        return status


def all_statuses() -> str:
    """Return all statuses in a sentence."""
    return f"exit status: {'; '.join(f'{s.value} {s.meaning}' for s in ExitStatus)}."


def statuses_of(own: dict[ExitStatus, str] | None = None) -> str:
    """Return a sentence on the statuses of one command, for its help.

    Args:
        own: Meanings that say more about this command than `ExitStatus.meaning` does, by status.
    """
    said = {ExitStatus.OK: "done", ExitStatus.ERROR: "wrong usage or an error", **(own or {})}
    meanings = "; ".join(f"{status.value} {said[status]}" for status in sorted(said))
    return f"exit status: {meanings}; 'cassle-zoo --help' lists all."
