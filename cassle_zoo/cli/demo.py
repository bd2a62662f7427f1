"""``cassle-zoo demo``: nearest neighbours of images, on a sheet and a page."""

import argparse
from pathlib import Path
from typing import Any

from cassle_zoo.cli.features import LEFT_OUT, report_skipped
from cassle_zoo.common.exit_status import ExitStatus, statuses_of

DEFAULT_MODELS = (
    "efficientnet_lite0_cassle_simclr",
    "resnet18_cassle_simclr",
    "resnet18_simclr",
)


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="nearest neighbours of sample images or your own",
        description="Extract features of images, find the nearest neighbours of each by several "
        "models, and write a contact sheet (PNG), a page (HTML) and the features to a folder. "
        "Features are whitened; the page has the neighbours by raw ones, too.",
        epilog=statuses_of(LEFT_OUT),
    )
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="images, as for 'cassle-zoo features'; default: the sample images that come with the "
        "package",
    )
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--models",
        nargs=2,
        metavar=("A", "B"),
        default=DEFAULT_MODELS,
        help="two models to be compared, named as for 'cassle-zoo features'; default: "
        f"{' '.join(DEFAULT_MODELS)}",
    )
    models.add_argument("--model", help="one model only")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), metavar="DIR", help="default: demo"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitStatus:
    """Write the demo, and print where it is."""
    from cassle_zoo.common.files import check_folder
    from cassle_zoo.features.gallery import run_demo

    check_folder(args.output, "-o")
    models = args.models if args.model is None else [args.model]
    outputs = run_demo(models, args.output, args.paths)
    print(f"{outputs.images} images through {' and '.join(models)}")
    print(f"  contact sheet  {outputs.sheet}")
    print(f"  page           {outputs.page}")
    print(f"  features       {outputs.features}")
    return report_skipped(outputs.skipped)
