"""Entry point of ``cassle-zoo``: the commands, and how their errors are reported."""

import argparse
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from itertools import pairwise

from cassle_zoo.accel.allocator import keep_freed_memory
from cassle_zoo.cli import (
    completion,
    demo,
    env,
    explore,
    features,
    hub,
    models,
    reproduce,
    upgrade,
    whiten,
)
from cassle_zoo.cli.parsing import CommandParser
from cassle_zoo.common.errors import CassleZooError, ConfigError, DataError, HubError
from cassle_zoo.common.exit_status import ExitStatus, all_statuses
from cassle_zoo.common.hub_client import redacted
from cassle_zoo.common.terminal import busy, printable, warnings_shown
from cassle_zoo.version import __version__

_PATHS = ("-o", "--out", "--output", "--data", "--cache", "--csv", "--preview")
_HUB_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "requests")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = CommandParser(
        prog="cassle-zoo",
        description="Augmentation-aware self-supervised vision models (CASSLE): "
        "load, extract features, pretrain, measure, publish.",
        epilog=f"'cassle-zoo COMMAND --help' shows the options of a command. {all_statuses()}",
    )
    parser.add_argument("--version", action="version", version=f"cassle-zoo {__version__}")
    parser.set_defaults(light=False)  # those that do without torch and timm set it
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (models, features, whiten, demo, explore):
        command.add_parser(subparsers)
    subparsers.add_parser("train", help="pretrain a backbone on your own images", add_help=False)
    subparsers.add_parser("eval", help="measure backbones on a dataset", add_help=False)
    for command in (hub, reproduce, upgrade, env):
        command.add_parser(subparsers)
    completion.add_parser(subparsers, parser)
    return parser


def main(argv: Sequence[str] | None = None) -> ExitStatus:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status.

    Raises:
        SystemExit: For ``--help`` and ``--version``, and from tyro for wrong settings of
            ``train`` and ``eval``, with the status of an error.
        Exception: Any other is a bug; without `argv`, it is printed and its status is 70.
    """
    if argv is None:
        keep_freed_memory()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Like stderr, so that names that cannot be encoded do not end a command.
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except Exception:
        if argv is not None:
            raise
        traceback.print_exc()
        print("cassle-zoo: this is a bug; please report it with the lines above.", file=sys.stderr)
        return ExitStatus.BUG


def _main(arguments: list[str]) -> ExitStatus:
    # Our messages have what Pillow logs about unreadable images; Python would print it again.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # Errors that a user can fix are reported in one line instead of a traceback.
    try:
        try:
            with warnings_shown("cassle-zoo: warning: "):
                # Pillow warns from half of the number of pixels on at which images are refused.
                warnings.filterwarnings("ignore", "Image size .* exceeds limit")
                return _run(arguments)
        finally:
            print(end="", flush=True)  # also without a standard output
    except CassleZooError as error:
        return _report(error)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.BROKEN_PIPE
    except OSError as error:
        # The Hub cannot be reached or lacks a file; else a bug, if it is not about a user's file.
        of_hub = type(error).__module__.partition(".")[0] in _HUB_CLIENTS
        if error.filename is None and not of_hub:
            raise
        return _report(HubError(redacted(str(error))) if of_hub else error)
    except RuntimeError as error:
        # torch raises it in a signal handler, so anywhere, even while another error is handled.
        if "DataLoader worker (pid" not in str(error):
            raise
        return _report(
            DataError(
                f"{str(error).strip().rstrip('.')}. Usual reasons: not enough memory, or shared "
                "memory (/dev/shm); pass fewer --workers (of train: --data.workers)."
            )
        )
    except KeyboardInterrupt:
        print("cassle-zoo: interrupted", file=sys.stderr)
        return ExitStatus.INTERRUPTED


def _run(arguments: list[str]) -> ExitStatus:
    # To Path, an empty name, as of an unset variable of the shell, is the current folder.
    for word, value in pairwise([*arguments, "-"]):
        option, equals, own = word.partition("=")
        if option in _PATHS and not (own if equals else value):
            raise ConfigError(f"{option} is empty, as an unset variable is; give it a value.")
    # These two have options defined by the settings of the trainer and the evaluators.
    if arguments[:1] in (["train"], ["eval"]):
        _set_colours_of_tyro()
        with busy("starting"):
            if arguments[0] == "train":
                from cassle_zoo.train.main import run_from_cli
            else:
                from cassle_zoo.eval.main import run_from_cli
        return run_from_cli(arguments[1:])
    args = build_parser().parse_args(arguments)
    if not args.light:
        with busy("starting"):
            import timm  # noqa: F401  # and torch: they take seconds, our own modules do not
    status: ExitStatus = args.run(args)
    return status


def _set_colours_of_tyro() -> None:
    """Let tyro, which looks only at stdout, use no colours if they are not wanted."""
    import tyro

    options: dict[str, object] = getattr(tyro, "_experimental_options", {})
    options["ansi_codes"] = sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _report(error: Exception) -> ExitStatus:
    print(f"cassle-zoo: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return ExitStatus.ERROR
