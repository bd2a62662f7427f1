"""``cassle-zoo reproduce``: recorded numbers, measured again; it parses its own arguments."""

from typing import Any

NAME = "reproduce"


def add_parser(subparsers: Any) -> None:
    """List the command; its arguments go to the study unread, see ``main._run``."""
    subparsers.add_parser(NAME, help="get recorded numbers again, or the study", add_help=False)


def run(argv: list[str]) -> int:
    """Hand all arguments after ``reproduce`` to the study."""
    from benchmarks.study.main import run_from_cli

    return run_from_cli(argv)
