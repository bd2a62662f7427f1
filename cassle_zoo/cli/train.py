"""``cassle-zoo train``: pretraining; the trainer parses its own arguments."""

from typing import Any

NAME = "train"


def add_parser(subparsers: Any) -> None:
    """List the command; its arguments go to the trainer unread, see ``main._run``."""
    subparsers.add_parser(NAME, help="pretrain a backbone on your own images", add_help=False)


def run(argv: list[str]) -> int:
    """Hand all arguments after ``train`` to the trainer."""
    from cassle_zoo.train.main import run_from_cli

    return run_from_cli(argv)
