"""Terminals: texts of any origin, and a sign of life while something takes longer."""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

_PATIENCE = 1.0  # seconds until something is shown


def printable(text: str) -> str:
    """Escape ESC, newlines and the like in a text, so that it cannot control a terminal.

    Args:
        text: A text of any origin; bytes of file names that are not UTF-8 are escaped too.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


@contextmanager
def warnings_shown(prefix: str) -> Iterator[None]:
    """Show warnings in one line on stderr, after a prefix, without the source of the library."""

    def show(message: Warning | str, *_: object) -> None:
        print(printable(f"{prefix}{message}"), file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show what is being done, and for how long, if it takes over a second and has no bar.

    It is shown on stderr if that is a terminal, and removed in the end.

    Args:
        what: What is done, such as `loading the model`.
    """
    with tqdm(
        desc=printable(what),
        bar_format="{desc} ({elapsed})",
        leave=False,
        delay=_PATIENCE,
        file=sys.stderr,
        disable=None,
    ) as bar:
        if bar.disable:
            yield
            return
        done = threading.Event()

        def show() -> None:
            wait = _PATIENCE
            while not done.wait(wait):
                bar.refresh()
                wait = 0.5
            if wait != _PATIENCE:
                bar.clear()  # tqdm forgets what was shown before its first update

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
