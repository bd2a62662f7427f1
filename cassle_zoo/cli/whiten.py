"""``cassle-zoo whiten``: fit a whitening to features, for ``--whiten`` elsewhere."""

import argparse
from pathlib import Path
from typing import Any

from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.common.terminal import busy


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "whiten",
        help="fit a whitening to features",
        description="Fit a PCA whitening to features of many images like those to be compared, "
        "without labels. 'cassle-zoo features --whiten FILE' and 'cassle-zoo eval knn --whiten "
        "FILE' apply it.",
    )
    parser.add_argument("features", help="file or folder that 'cassle-zoo features' wrote")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help="a .safetensors file"
    )
    parser.add_argument(
        "--components",
        type=int,
        default=128,
        metavar="K",
        help="width of the whitened features; twice as many images are needed; default: "
        "%(default)s",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitStatus:
    """Fit and save a whitening."""
    from cassle_zoo.common.errors import ConfigError
    from cassle_zoo.common.files import check_folder
    from cassle_zoo.features.files import load_features
    from cassle_zoo.features.whitening import Whitening

    if args.output.suffix != ".safetensors":
        raise ConfigError(f"-o {args.output}: a whitening is saved as .safetensors.")
    check_folder(args.output.parent, "-o")
    with busy("fitting the whitening"):
        found = load_features(args.features)
        whitening = Whitening.fit(found.features, args.components, origin=found.origin)
    whitening.save(args.output)
    print(
        f"{args.output}: {found.features.shape[1]} to {whitening.components} dimensions, fitted to "
        f"{whitening.images:,} images"
    )
    return ExitStatus.OK
