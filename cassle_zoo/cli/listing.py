"""``cassle-zoo list``: the models of the zoo."""

import argparse
import difflib
import sys
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Describe the command's arguments."""
    parser = subparsers.add_parser(
        "list",
        help="list the models of the zoo",
        description="List models, one a line: name, input size in pixels, weights. Exit status 1 "
        "if no model matches.",
    )
    parser.add_argument(
        "pattern", nargs="?", default="", help="shell-style pattern, such as '*resnet18*'"
    )
    parser.add_argument(
        "--pretrained", action="store_true", help="only models whose weights are published"
    )
    parser.set_defaults(run=run)


def _no_match(pattern: str, pretrained: bool) -> str:
    """Say that nothing matches, and which names are near."""
    import cassle_zoo

    if pretrained and cassle_zoo.list_models(pattern):
        return f"no model that matches {pattern!r} has published weights."
    names = cassle_zoo.list_models()
    bases = dict.fromkeys(name.partition(".")[0] for name in names)
    near = difflib.get_close_matches(pattern.strip("*"), names if "." in pattern else [*bases])
    if near:
        return f"no model matches {pattern!r}. Did you mean {' or '.join(map(repr, near))}?"
    return f"no model matches {pattern!r}; a part of a name needs stars: '*{pattern.strip('*')}*'."


def run(args: argparse.Namespace) -> int:
    """Print the models that match."""
    import cassle_zoo

    names = cassle_zoo.list_models(args.pattern, pretrained=args.pretrained)
    specs = [cassle_zoo.model_info(name) for name in names]
    if not names:
        print(f"cassle-zoo: {_no_match(args.pattern, args.pretrained)}", file=sys.stderr)
        return 1
    width = max((len(spec.full_name) for spec in specs), default=0)
    for spec in specs:
        weights = "pretrained" if spec.released else "weights not published"
        print(f"{spec.full_name:<{width}}  {spec.input_size[-1]:>3} px  {weights}")
    return 0
