"""``cassle-zoo info``: what is known about one model."""

import argparse
import dataclasses
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Describe the command's arguments."""
    parser = subparsers.add_parser(
        "info",
        help="show what is known about one model",
        description="Show a model's method, data, input and weights.",
    )
    parser.add_argument(
        "name", help="model name, with or without tag, hf-hub:ORG/NAME or local-dir:FOLDER"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the model's fields, one a line."""
    import cassle_zoo

    spec = cassle_zoo.model_info(args.name)
    rows = {"full_name": spec.full_name, "released": spec.released, **dataclasses.asdict(spec)}
    hashes = rows.pop("sha256") or {}
    rows |= {f"sha256 of {file}": digest for file, digest in hashes.items()}
    width = max(map(len, rows))
    for field, value in rows.items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        print(f"{field:<{width}}  {shown}")
    return 0
