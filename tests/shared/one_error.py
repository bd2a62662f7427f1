"""What every command promises about bad input: one line, status 2."""

from collections.abc import Callable

import pytest


def fails_with(run: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr of a command that ends in status 2."""
    assert run() == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    return err
