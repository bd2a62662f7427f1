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
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image, folder, pattern such as 'photos/**/*.jpg' or 'train-{000..099}.tar', tar "
        "file, dataset saved by the package datasets, list of paths (.txt, .csv, or - for standard "
        "input), or address such as s3://BUCKET/FOLDER",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="where to write: .safetensors, .npz, .csv or .parquet",
    )
    add_model_options(parser)
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--device", help="such as cpu or cuda:0; default: a GPU if there is one")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or auto; default: fp32")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read images"
    )
    parser.set_defaults(run=run)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is computed, and of how images are read."""
    parser.add_argument(
        "--outputs",
        nargs="+",
        default=["pooled"],
        metavar="NAME",
        help="pooled (default), tokens, stage:K (mean of the map after stage K, from 0, or from "
        "the end if negative), stage:K:map, or projected (by the model's projector, for near "
        "duplicates); the first of several is the file's features",
    )
    parser.add_argument(
        "--dtype", default="float32", metavar="TYPE", help="float32 (default) or float16"
    )
    parser.add_argument(
        "--value-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="black and white of images of more than 8 bits, such as 0 4095; default: 0 65535",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="refuse larger images, which may exhaust the memory; default: 178956970",
    )
    parser.add_argument(
        "--column", metavar="NAME", help="column of a list or dataset that holds the images"
    )


def run(args: argparse.Namespace) -> int:
    """Extract and save features; name the images that were left out."""
    from cassle_zoo.common.images import limit_pixels
    from cassle_zoo.features.extract import extract_features
    from cassle_zoo.features.files import check_feature_path, save_features

    if args.max_pixels is not None:
        limit_pixels(args.max_pixels)
    check_feature_path(args.output)
    result = extract_features(
        args.model,
        args.paths,
        batch_size=args.batch_size,
        device=args.device,
        num_workers=args.workers,
        precision=args.precision,
        outputs=args.outputs,
        dtype=args.dtype,
        value_range=args.value_range,
        column=args.column,
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
