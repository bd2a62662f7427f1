"""``cassle-zoo explore``: a page with a map of images, and the neighbours of each."""

import argparse
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from cassle_zoo.cli.features import LEFT_OUT, report_skipped
from cassle_zoo.common.exit_status import ExitStatus, statuses_of


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "explore",
        help="a page with a map of images and the neighbours of each",
        description="Write one HTML page that needs no other file: a map of images, and to each "
        "image its neighbours by two models, or by features and projections of one. Features are "
        "whitened.",
        epilog=statuses_of(LEFT_OUT),
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="images, as for 'cassle-zoo features'"
    )
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--model",
        default="resnet18_cassle_simclr",
        help="compare by its features (what augmentation changes counts) and by its projections "
        "(it counts for less); named as for 'cassle-zoo features'; default: %(default)s",
    )
    models.add_argument(
        "--models", nargs=2, metavar=("A", "B"), help="compare by the features of two models"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the page, such as x.html"
    )
    parser.add_argument(
        "--serve", action="store_true", help="show the page on a local address until Ctrl-C"
    )
    parser.add_argument(
        "--port", type=int, default=0, metavar="N", help="of --serve; default: any that is free"
    )
    parser.add_argument(
        "--layout",
        default="auto",
        help="pca, umap (with cassle-zoo[umap]) or grid; default: grid up to 100 images, else pca",
    )
    parser.add_argument(
        "--neighbours", type=int, default=12, metavar="K", help="of each image; default: 12"
    )
    parser.add_argument("--title", default="Images and their neighbours", help="the heading")
    parser.add_argument("--device", help="such as cpu or cuda:0; default: a GPU if there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitStatus:
    """Write or serve the page, and say where it is."""
    from cassle_zoo.common.errors import ConfigError
    from cassle_zoo.common.files import check_folder, write_text
    from cassle_zoo.features.explorer.page import explore
    from cassle_zoo.features.explorer.server import PageServer

    if args.output is None and not args.serve:
        raise ConfigError("nothing to do with the page: pass -o FILE.html, --serve, or both.")
    if args.port and not args.serve:
        raise ConfigError(f"--port {args.port} is of --serve; pass that, too, or leave it out.")
    if args.output is not None:
        if args.output.is_dir() or not args.output.parent.is_dir():
            raise ConfigError(f"{args.output} is no file in an existing folder: pass -o FILE.html.")
        check_folder(args.output.parent, "-o")
    # The port is taken before the work begins.
    with PageServer(args.port) if args.serve else nullcontext() as server:
        found = explore(
            args.paths,
            args.models or args.model,
            layout=args.layout,
            neighbours=args.neighbours,
            title=args.title,
            device=args.device,
        )
        print(f"{found.images} images: {'; '.join(found.spaces)}")
        if args.output is not None:
            write_text(args.output, found.page)
            print(f"  {args.output}, {args.output.stat().st_size / 1e6:.3g} MB")
        status = report_skipped(found.skipped)
        if server is not None:
            server.page = found.page
            print(f"  http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
            with suppress(KeyboardInterrupt):
                server.serve_forever()
    return status
