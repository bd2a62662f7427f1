"""``cassle-zoo upgrade``: rewrite files of an earlier version."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Describe the command's arguments."""
    parser = subparsers.add_parser(
        "upgrade",
        help="rewrite files of an earlier version in the present format",
        description="Rewrite recorded results, runs, model folders and records of the study that "
        "an earlier version wrote. Weights and numbers stay as they are.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="JSON file, or folder of such files"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Rewrite the files, and print their names."""
    from cassle_zoo.hub.upgrade import upgrade

    for path in args.paths:
        rewritten = upgrade(path)
        for file in rewritten:
            print(file)
        if not rewritten:
            print(f"nothing to rewrite in {path}")
    return 0
