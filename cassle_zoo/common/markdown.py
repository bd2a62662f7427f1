"""Pieces of Markdown that texts of any origin cannot break out of."""

import re
from typing import Any


def inline(value: Any) -> str:
    """Write a value on one line, so that it cannot change the structure of the document."""
    return " ".join(str(value).replace("|", "\\|").split())


def shell_block(command: Any) -> str:
    """Write a command as a block of code, in a fence longer than any run of backticks in it."""
    longest = max(map(len, re.findall("`+", str(command))), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command}\n{fence}"
