"""``cassle-zoo eval``: measure backbones on a data set."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Describe the command's arguments."""
    parser = subparsers.add_parser("eval", help="measure backbones on a data set")
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", required=True)
    emoji64 = tasks.add_parser(
        "emoji64",
        help="k-NN, linear probe and retrieval on the five emoji64 tasks",
        description="Measure models on the five emoji64 tasks.",
    )
    emoji64.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="model name, local-dir:FOLDER, random-init:resnet18 or raw-pixels",
    )
    emoji64.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="emoji64.tar or its unpacked folder",
    )
    emoji64.add_argument("--seed", type=int, default=0, help="default: 0")
    emoji64.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="write the results as JSON"
    )
    emoji64.set_defaults(run=run_emoji64)


def run_emoji64(args: argparse.Namespace) -> int:
    """Measure, print and, if asked, record."""
    raise SystemExit(args)
