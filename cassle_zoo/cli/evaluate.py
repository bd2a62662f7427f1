"""``cassle-zoo eval``: measure backbones; the evaluators parse their own arguments."""

from typing import Any

NAME = "eval"


def add_parser(subparsers: Any) -> None:
    """List the command; its arguments go to the evaluation unread, see ``main._run``."""
    subparsers.add_parser(NAME, help="measure backbones on a dataset", add_help=False)


def run(argv: list[str]) -> int:
    """Hand all arguments after ``eval`` to the evaluation."""
    from cassle_zoo.eval.main import run_from_cli

    return run_from_cli(argv)
