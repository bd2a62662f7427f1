"""``cassle-zoo features``: features of images, written to one file or to a folder of parts."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.exit_status import ExitStatus, statuses_of
from cassle_zoo.common.terminal import busy, printable

if TYPE_CHECKING:
    from cassle_zoo.features.extract import Extractor
    from cassle_zoo.features.inputs import Inputs, Skipped

LEFT_OUT = {
    ExitStatus.OK: "all images were read",
    ExitStatus.INCOMPLETE: "some files could not be read as images and were left out (named on "
    "stderr); the output has the others",
}
"""What statuses mean for commands that read images."""
_STATUSES = {
    ExitStatus.OK: "all images were read (under torchrun, some)",
    ExitStatus.INCOMPLETE: "some files could not be read as images and were left out (named on "
    "stderr, or in the folder's skipped.csv); the output has the others",
    ExitStatus.ERROR: "wrong usage or an error, and nothing was written but whole parts of a "
    "folder",
    ExitStatus.STOPPED: "stopped by a signal; with a folder, the same command continues",
}


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "features",
        help="extract features of images",
        description="Extract one feature vector per image and write them, with the file names, "
        "to one file, or for many images to a folder of parts, where the same command continues "
        "after an interruption. Under torchrun, or with --part I/N, processes share the work out.",
        epilog=statuses_of(_STATUSES),
    )
    parser.add_argument(
        "model",
        help="model name of the zoo or of timm (timm:NAME), hf-hub:ORG/NAME or local-dir:FOLDER",
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
        metavar="FILE|FOLDER/",
        help="where to write: a .safetensors, .npz, .csv or .parquet file, or FOLDER/ for parts",
    )
    parser.add_argument(
        "--kind", metavar="KIND", help="of parts: safetensors or parquet; default: safetensors"
    )
    parser.add_argument(
        "--part-images", type=int, metavar="N", help="images in a part; default: 4096 or fewer"
    )
    parser.add_argument(
        "--part",
        metavar="I/N",
        help="this is process I of N (from 1) that share the work out; each is started with the "
        "same folder as output",
    )
    parser.add_argument(
        "--decode",
        default="fast",
        help="fast: decode large JPEGs at a fraction of their size; exact: in full; default: fast",
    )
    parser.add_argument(
        "--whiten",
        metavar="FILE",
        help="whiten the pooled features: a file of 'cassle-zoo whiten', or 'model' for the one in "
        "the model's folder",
    )
    parser.add_argument(
        "--outputs",
        nargs="+",
        default=["pooled"],
        metavar="NAME",
        help="pooled (default), tokens, stage:K (mean of the map after stage K, from 0, or from "
        "the end if negative), stage:K:map, or projected (by the model's projector); of "
        "several, pooled or else the first is the file's features",
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
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--device", help="such as cpu or cuda:0; default: a GPU if there is one")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or auto; default: fp32")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read images"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitStatus:
    """Extract and save features; name the images that were left out."""
    from cassle_zoo.common.devices import check_device, device_of_process
    from cassle_zoo.common.images import limit_pixels

    args.device = device_of_process(args.device, "--device")
    check_device(args.device)
    if args.max_pixels is not None:
        limit_pixels(args.max_pixels)
    if args.output.endswith("/") or os.path.isdir(args.output):
        return _to_folder(args)
    return _to_file(args)


def _to_file(args: argparse.Namespace) -> ExitStatus:
    from cassle_zoo.features.extract import collect
    from cassle_zoo.features.files import check_feature_path, save_features
    from cassle_zoo.features.inputs import nothing_read

    if _place(args)[1] > 1 or args.kind is not None or args.part_images is not None:
        raise ConfigError(
            "several processes, --kind and --part-images need a folder as output: "
            f"-o {args.output}/"
        )
    check_feature_path(args.output, outputs=args.outputs)
    images, skipped = _open(args)
    if not images:
        raise DataError(nothing_read(skipped))
    check_feature_path(args.output, (image.source for image in images))
    result = collect(
        _extractor(args),
        images,
        skipped,
        batch_size=args.batch_size,
        workers=args.workers,
        progress=None,
    )
    save_features(result, args.output)
    shape = " x ".join(map(str, result.features.shape[1:]))
    print(f"{Path(args.output)}: {len(result)} images x {shape} features")
    return report_skipped(result.skipped)


def _to_folder(args: argparse.Namespace) -> ExitStatus:
    from cassle_zoo.common.files import check_folder
    from cassle_zoo.features.to_folder import extract_to_folder

    folder = Path(args.output)
    part = _place(args)
    check_folder(folder, "-o")
    result = extract_to_folder(
        _extractor(args),
        _open(args),
        folder,
        kind="safetensors" if args.kind is None else args.kind,
        part_images=args.part_images,
        part=part,
        batch_size=args.batch_size,
        num_workers=args.workers,
    )
    if result.stopped:
        return ExitStatus.STOPPED
    own = f" (part {part[0]}/{part[1]})" if part[1] > 1 else ""
    rest = "" if result.complete else "; other parts are still missing"
    print(f"{folder}{own}: {result.images} images{rest}", flush=True)
    if result.skipped:
        where = folder / "skipped.csv"
        print(
            f"cassle-zoo: left out {result.skipped}: {where} "
            f"{'says' if result.complete else 'will say'} what and why",
            file=sys.stderr,
        )
    # torchrun would end the other processes if one failed.
    alone = "TORCHELASTIC_RUN_ID" not in os.environ
    return ExitStatus.INCOMPLETE if result.skipped and alone else ExitStatus.OK


def _open(args: argparse.Namespace) -> "tuple[Inputs, list[Skipped]]":
    from cassle_zoo.features.inputs import expand_inputs

    with busy("looking for images"):
        return expand_inputs(args.paths, args.column)


def _extractor(args: argparse.Namespace) -> "Extractor":
    from cassle_zoo.features.extract import Extractor

    with busy(f"loading {args.model}"):
        return Extractor(
            args.model,
            outputs=args.outputs,
            precision=args.precision,
            device=args.device,
            dtype=args.dtype,
            value_range=args.value_range,
            decode=args.decode,
            whiten=args.whiten,
        )


def _place(args: argparse.Namespace) -> tuple[int, int]:
    """Return which process this is, and of how many: by --part, or as torchrun says."""
    rank, world_size = (int(os.environ.get(k, v)) for k, v in (("RANK", 0), ("WORLD_SIZE", 1)))
    if args.part is None:
        return rank + 1, world_size
    if world_size > 1:
        raise ConfigError("torchrun shares the work out itself; leave out --part.")
    own, slash, of = args.part.partition("/")
    if not (slash and own.isdecimal() and of.isdecimal() and 1 <= int(own) <= int(of)):
        raise ConfigError(f"--part {args.part}: expected I/N with I from 1 to N, such as 1/8.")
    return int(own), int(of)


def report_skipped(skipped: "Sequence[Skipped]") -> ExitStatus:
    """Name on stderr the images that were left out; return the exit status."""
    for item in skipped:
        print(printable(f"cassle-zoo: left out {item.source}: {item.reason}"), file=sys.stderr)
    return ExitStatus.INCOMPLETE if skipped else ExitStatus.OK
