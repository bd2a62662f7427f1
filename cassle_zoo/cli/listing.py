"""``cassle-zoo list``: the models of the zoo."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Describe the command's arguments."""
    parser = subparsers.add_parser(
        "list",
        help="list the models of the zoo",
        description="List models, one a line: name, input size in pixels, weights.",
    )
    parser.add_argument(
        "pattern", nargs="?", default="", help="shell-style pattern, such as '*resnet18*'"
    )
    parser.add_argument(
        "--pretrained", action="store_true", help="only models whose weights are published"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the models that match."""
    import cassle_zoo

    names = cassle_zoo.list_models(args.pattern, pretrained=args.pretrained)
    specs = [cassle_zoo.model_info(name) for name in names]
    width = max((len(spec.full_name) for spec in specs), default=0)
    for spec in specs:
        weights = "pretrained" if spec.released else "weights not published"
        print(f"{spec.full_name:<{width}}  {spec.input_size[-1]:>3} px  {weights}")
    return 0
