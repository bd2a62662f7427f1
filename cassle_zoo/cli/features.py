"""``cassle-zoo features``: features of image files, written to one file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cassle_zoo.cli import printable

if TYPE_CHECKING:
    from cassle_zoo.features.inputs import Skipped

EXIT_SKIPPED = 1


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "features",
        help="extract features of images",
        description="Extract one feature vector per image and write them, with the file names, "
        "to one file.",
        epilog="exit status: 0 all images were read; 1 some files could not be read as images "
        "and were left out (named on stderr; the output has the others); 2 wrong usage or an "
        "error, nothing was written.",
    )
    parser.add_argument(
        "model", help="model name of the zoo or of timm, hf-hub:ORG/NAME or local-dir:FOLDER"
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image or folder")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="where to write: .safetensors, .npz, .csv or .parquet",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--device", help="such as cpu or cuda:0; default: a GPU if there is one")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or auto; default: fp32")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read images"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Extract and save features; name the images that were left out."""
    from cassle_zoo.features.extract import extract_features
    from cassle_zoo.features.files import check_feature_path, save_features

    check_feature_path(args.output)
    result = extract_features(
        args.model,
        args.paths,
        batch_size=args.batch_size,
        device=args.device,
        num_workers=args.workers,
        precision=args.precision,
    )
    save_features(result, args.output)
    count, width = result.features.shape
    print(f"{args.output}: {count} images x {width} features")
    return report_skipped(result.skipped)


def report_skipped(skipped: "Sequence[Skipped]") -> int:
    """Name on stderr the images that were left out; return the exit status."""
    for item in skipped:
        print(printable(f"cassle-zoo: left out {item.source}: {item.reason}"), file=sys.stderr)
    return EXIT_SKIPPED if skipped else 0
