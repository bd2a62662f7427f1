"""``cassle-zoo list`` and ``info``: the models of the zoo, and the facts about one."""

import argparse
import dataclasses
import difflib
import json
import sys
from typing import Any

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.exit_status import ExitStatus, statuses_of
from cassle_zoo.common.terminal import printable


def add_parser(subparsers: Any) -> None:
    """Add both commands."""
    parser = subparsers.add_parser(
        "list",
        help="list the models of the zoo",
        description="List models, one per line: name, input size in pixels, weights.",
        epilog=statuses_of({ExitStatus.INCOMPLETE: "no model matches the pattern"}),
    )
    parser.add_argument(
        "pattern", nargs="?", default="", help="shell-style pattern, such as '*resnet18*'"
    )
    parser.add_argument(
        "--pretrained", action="store_true", help="only models whose weights are published"
    )
    parser.add_argument("--json", action="store_true", help="print the facts about each as JSON")
    parser.set_defaults(run=_list, light=True)

    parser = subparsers.add_parser(
        "info",
        help="show the facts about one model",
        description="Show a model's method, data, input and weights.",
    )
    parser.add_argument(
        "name", help="model name, with or without tag, hf-hub:ORG/NAME or local-dir:FOLDER"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_info, light=True)


def _list(args: argparse.Namespace) -> ExitStatus:
    import cassle_zoo

    names = cassle_zoo.list_models(args.pattern, pretrained=args.pretrained)
    if not names:
        if args.json:
            print("[]")
        print(f"cassle-zoo: {_no_match(args.pattern, args.pretrained)}", file=sys.stderr)
        return ExitStatus.INCOMPLETE
    specs = [cassle_zoo.model_info(name) for name in names]
    if args.json:
        print(json.dumps([_facts(spec) for spec in specs], indent=2))
        return ExitStatus.OK
    width = max(len(spec.full_name) for spec in specs)
    for spec in specs:
        weights = "pretrained" if spec.released else "weights not published"
        print(f"{spec.full_name:<{width}}  {spec.input_size[-1]:>3} px  {weights}")
    return ExitStatus.OK


def _no_match(pattern: str, pretrained: bool) -> str:
    import cassle_zoo

    if pretrained and cassle_zoo.list_models(pattern):
        return f"no model that matches {pattern!r} has published weights."
    names = cassle_zoo.list_models()
    bases = dict.fromkeys(name.partition(".")[0] for name in names)
    near = difflib.get_close_matches(pattern.strip("*"), names if "." in pattern else [*bases])
    if near:
        return f"no model matches {pattern!r}. Did you mean {' or '.join(map(repr, near))}?"
    if "*" in pattern:
        return f"no model matches {pattern!r}; cassle-zoo list, without a pattern, lists all."
    return f"no model matches {pattern!r}; part of a name needs stars: '*{pattern}*'."


def _info(args: argparse.Namespace) -> ExitStatus:
    import cassle_zoo
    from cassle_zoo.zoo.timm_names import TIMM_PREFIX

    if args.name.startswith(TIMM_PREFIX):
        raise ConfigError(
            f"{args.name!r} is a model of timm; info is of models of the zoo (cassle-zoo list), "
            "hf-hub:ORG/NAME and local-dir:FOLDER. timm.get_pretrained_cfg() has timm's facts."
        )
    spec = cassle_zoo.model_info(args.name)
    rows = _facts(spec)
    if args.json:
        print(json.dumps(rows, indent=2))
        return ExitStatus.OK
    hashes = rows.pop("sha256") or {}
    rows |= {f"sha256 of {file}": digest for file, digest in hashes.items()}
    width = max(map(len, rows))
    for field, value in rows.items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        print(printable(f"{field:<{width}}  {shown}"))
    return ExitStatus.OK


def _facts(spec: Any) -> dict[str, Any]:
    return {"full_name": spec.full_name, "released": spec.released, **dataclasses.asdict(spec)}
