"""The commands' parser: argparse's, with our errors, and suggestions for misspelt options."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.exit_status import statuses_of


class CommandParser(argparse.ArgumentParser):
    """A parser of a command, whose help ends with the exit statuses."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("epilog", statuses_of())
        super().__init__(**{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments; what is left over is an error of this command, not of the whole."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._near(left)}")
        return found, left

    def error(self, message: str) -> NoReturn:
        """Raise a `ConfigError` with the message and where to look, instead of printing usage."""
        for kind, words in (("int", "a whole number"), ("float", "a number")):
            where, found, value = message.partition(f"invalid {kind} value: ")
            message = f"{where}{value} is not {words}" if found else message
        raise ConfigError(f"{message.rstrip('.')}. '{self.prog} --help' shows what it takes.")

    def _near(self, words: Sequence[str]) -> str:
        options = [name for action in self._actions for name in action.option_strings]
        near = difflib.get_close_matches(words[0].partition("=")[0], options, n=2)
        return f". Did you mean {' or '.join(near)}?" if near else ""
