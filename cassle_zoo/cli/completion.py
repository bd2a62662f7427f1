"""``cassle-zoo completion``: the shell's completion of commands, models, options and files."""

import argparse
import dataclasses
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cassle_zoo.common.exit_status import ExitStatus, statuses_of

SHELLS = ("bash", "zsh", "tcsh")
_PATHS = ("paths", "data", "features", "init", "output", "results", "whiten")
"""Arguments that take files or folders, but are not of type `Path`."""

_HOW = """\
bash:  cassle-zoo completion bash > ~/.local/share/bash-completion/completions/cassle-zoo
zsh:   cassle-zoo completion zsh > DIR/_cassle-zoo, with DIR in $fpath before compinit
tcsh:  cassle-zoo completion tcsh > FILE, and `source FILE` in ~/.tcshrc"""


def add_parser(subparsers: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command; `whole` is the parser of the whole command line."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes commands, models, options and files in the shell",
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
    from cassle_zoo.eval.report.page import ReportArguments
    from cassle_zoo.train.main import Arguments as TrainArguments
    from cassle_zoo.train.methods import METHODS
    from cassle_zoo.train.recipes import RECIPES

    [subparsers] = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    train = subparsers.choices["train"]
    train.add_argument("recipe", choices=list(RECIPES))
    methods = (option for own in METHODS.values() for option in _options(own, "method."))
    _add_options(train, [*_options(TrainArguments), *methods])
    tasks = subparsers.choices["eval"].add_subparsers()
    common = list(_options(EvalArguments))
    for task, evaluator in EVALUATORS.items():
        about = (evaluator.__doc__ or "").partition("\n")[0]
        own = tasks.add_parser(task, description=about, help=about.replace("%", "%%"))
        own.add_argument("models", nargs="*")
        _add_options(own, [*common, *_options(evaluator)])
    report = tasks.add_parser("report", help="compare recorded results")
    report.add_argument("results", nargs="*")
    _add_options(report, _options(ReportArguments))

    names = cassle_zoo.list_models()
    for action in _arguments(parser):
        if action.dest in ("model", "name", "models") and action.choices is None:
            action.choices = names
        elif action.type is Path or action.dest in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Return the arguments of a command and of those below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices.values():
                yield from _arguments(own)


def _add_options(parser: argparse.ArgumentParser, options: Iterable[tuple[str, Any]]) -> None:
    for option, kind in dict(options).items():
        names = ["-o", option] if option == "--output" else [option]
        parser.add_argument(*names, type=Path if Path in (kind, *typing.get_args(kind)) else str)


def _options(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return the options that tyro makes of a dataclass with groups, and their types."""
    types = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        kind, name = types[field.name], f"{prefix}{field.name}"
        if field.name in ("config", "compute"):  # groups whose name is not part of the option
            yield from _options(kind, prefix)
        elif dataclasses.is_dataclass(kind):
            yield from _options(kind, f"{name}.")
        elif field.name not in ("models", "results", "settings"):
            negated = "no-" if field.default is True else ""
            yield f"--{prefix}{negated}{field.name}".replace("_", "-"), kind
