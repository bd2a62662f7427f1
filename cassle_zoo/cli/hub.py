"""``cassle-zoo hub``: folders and cards for the Hugging Face Hub."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Describe the command's arguments."""
    parser = subparsers.add_parser("hub", help="make folders and cards for the Hugging Face Hub")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    export = actions.add_parser(
        "export",
        help="turn a finished training run into a model folder",
        description="Write model.safetensors, projector.safetensors, config.json and a model card.",
    )
    export.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished run")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    export.add_argument(
        "--dtype",
        choices=["float16", "float32"],
        default="float16",
        help="of the weights in the folder; default: %(default)s",
    )
    export.add_argument(
        "--overwrite", action="store_true", help="replace a model folder that exists"
    )
    export.set_defaults(run=run_export)

    cards = actions.add_parser(
        "cards",
        help="write MODEL_CARDS.md from the recorded results",
        description="Write MODEL_CARDS.md in the current folder from the recorded results.",
    )
    cards.add_argument(
        "--check", action="store_true", help="write nothing; fail if the file is not up to date"
    )
    cards.set_defaults(run=run_cards)


def run_export(args: argparse.Namespace) -> int:
    """Write the model folder."""
    import torch

    from cassle_zoo.hub.export import export_run

    dtype = {"float16": torch.float16, "float32": torch.float32}[args.dtype]
    export_run(args.run_dir, args.output, dtype=dtype, overwrite=args.overwrite)
    print(args.output)
    return 0


def run_cards(args: argparse.Namespace) -> int:
    """Write or check MODEL_CARDS.md."""
    from cassle_zoo.hub.cards import main

    return main(["--check"] if args.check else [])
