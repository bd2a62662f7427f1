"""``cassle-zoo demo``: nearest neighbours of images, on a sheet and a page."""

import argparse
from pathlib import Path
from typing import Any

from cassle_zoo.cli.features import report_skipped

DEFAULT_MODEL = "resnet50_cassle_simclr"


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="nearest neighbours of sample images or your own",
        description="Extract features of images, find the nearest neighbours of each, and write a "
        "contact sheet (PNG), a page (HTML) and the features to a folder.",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="image or folder; default: the sample images that come with the package",
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="as for 'cassle-zoo features'; default: %(default)s"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), metavar="DIR", help="default: demo"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the demo, and print where it is."""
    from cassle_zoo.features.gallery import run_demo

    outputs = run_demo(args.model, args.output, args.paths)
    print(f"{outputs.images} images through {args.model}")
    print(f"  contact sheet  {outputs.sheet}")
    print(f"  page           {outputs.page}")
    print(f"  features       {outputs.features}")
    return report_skipped(outputs.skipped)
