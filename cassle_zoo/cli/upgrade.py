"""``cassle-zoo upgrade``: rewrite files of an earlier version."""

import argparse
from pathlib import Path
from typing import Any

from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.common.terminal import printable


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "upgrade",
        help="rewrite files of an earlier version in the current format",
        description="Rewrite results, runs, model folders and study records that an earlier "
        "version wrote. Weights and numbers do not change.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="JSON file, or folder of such files"
    )
    parser.set_defaults(run=run, light=True)


def run(args: argparse.Namespace) -> ExitStatus:
    """Rewrite the files, and print their names."""
    from cassle_zoo.hub.upgrade import upgrade

    for path in args.paths:
        rewritten = upgrade(path)
        for file in rewritten:
            print(printable(str(file)))
        if not rewritten:
            print(f"nothing to rewrite in {path}")
    return ExitStatus.OK
