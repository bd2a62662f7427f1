"""Markdown that is safe for texts of any origin."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any


def inline(value: Any) -> str:
    """Return a value on one line, so that it cannot change the structure of the document."""
    return " ".join(str(value).replace("|", "\\|").split())


def shell_block(command: Any) -> str:
    """Return a command as a code block, with a fence longer than any run of backticks in it."""
    longest = max(map(len, re.findall("`+", str(command))), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command}\n{fence}"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Collection[int] = (),
    *,
    align: bool = False,
) -> str:
    """Return a table, without a newline after its last row.

    Args:
        header: Titles of the columns.
        rows: A cell per column; :func:`inline` makes foreign text safe.
        right: Indices of the columns that are aligned right.
        align: Pad the cells, so that the source itself reads as a table.
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) if align else 0 for column in zip(*lines, strict=True)]
    rule = ["---:" if column in right else "---" for column in range(len(header))]

    def line(cells: Sequence[str], fill: str = " ") -> str:
        padded = (
            cell.rjust(width, fill) if column in right else cell.ljust(width, fill)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(header), line(rule, "-"), *map(line, lines[1:])])
