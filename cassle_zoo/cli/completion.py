"""``cassle-zoo completion``: the shell's completion of commands, models and options."""

import argparse
import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from cassle_zoo.common.exit_status import ExitStatus, statuses_of

SHELLS = ("bash", "zsh", "tcsh")

_HOW = """\
bash:  cassle-zoo completion bash > ~/.local/share/bash-completion/completions/cassle-zoo
zsh:   cassle-zoo completion zsh > DIR/_cassle-zoo, with DIR in $fpath before compinit
tcsh:  cassle-zoo completion tcsh > FILE, and `source FILE` in ~/.tcshrc"""


def add_parser(subparsers: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command; `whole` is the parser of the whole command line."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes commands, models and options in the shell",
        description="Print a script for the shell. Write it where the shell looks for it:",
        epilog=f"{_HOW}\n\n{statuses_of()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that will read the script")
    parser.set_defaults(run=_run, whole=whole)


def _run(args: argparse.Namespace) -> ExitStatus:
    import shtab

    _add_what_is_known_later(args.whole)
    print(shtab.complete(args.whole, shell=args.shell))
    return ExitStatus.OK


def _add_what_is_known_later(parser: argparse.ArgumentParser) -> None:
    """Add the names of models, and the recipes, evaluations and settings with their options."""
    import shtab

    import cassle_zoo
    from cassle_zoo.eval.main import Arguments as EvalArguments
    from cassle_zoo.eval.protocols import EVALUATORS
    from cassle_zoo.train.main import Arguments as TrainArguments
    from cassle_zoo.train.methods import METHODS
    from cassle_zoo.train.recipes import RECIPES

    commands = _commands(parser)
    train = commands["train"]
    train.add_argument("recipe", choices=list(RECIPES))
    methods = (flag for method in METHODS.values() for flag in _flags(method, "method."))
    for flag in dict.fromkeys([*_flags(TrainArguments), *methods]):
        train.add_argument(flag)
    tasks = commands["eval"].add_subparsers()
    common = list(_flags(EvalArguments))
    for task, evaluator in EVALUATORS.items():
        options = tasks.add_parser(task, help=(evaluator.__doc__ or "").partition("\n")[0])
        options.add_argument("models", nargs="*")
        for flag in dict.fromkeys([*common, *_flags(evaluator)]):
            options.add_argument(flag)
    tasks.add_parser("report", help="compare recorded results").add_argument("results", nargs="*")

    names = cassle_zoo.list_models()
    for command in commands.values():
        for action in command._actions:
            if action.dest in ("model", "name", "models") and action.choices is None:
                action.choices = names
            elif action.type is not None or action.dest in ("images", "data", "out", "paths"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    [subparsers] = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    found: dict[str, argparse.ArgumentParser] = subparsers.choices
    return found


def _flags(settings: Any, prefix: str = "") -> Iterator[str]:
    """Return the options that tyro makes of a dataclass with groups."""
    types = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        kind, name = types[field.name], f"{prefix}{field.name}"
        if field.name in ("config", "compute"):  # groups whose name is not part of the option
            yield from _flags(kind, prefix)
        elif dataclasses.is_dataclass(kind):
            yield from _flags(kind, f"{name}.")
        elif field.name not in ("models", "settings"):
            yield f"--{name.replace('_', '-')}"
