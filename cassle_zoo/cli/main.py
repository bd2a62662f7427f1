"""Entry point of ``cassle-zoo``: the commands, and the exit statuses of errors."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from cassle_zoo.cli import (
    completion,
    demo,
    env,
    explore,
    features,
    hub,
    models,
    printable,
    reproduce,
    upgrade,
    whiten,
)
from cassle_zoo.common.errors import CassleZooError, DataError
from cassle_zoo.version import __version__

EXIT_ERROR = 2
EXIT_BUG = 70  # as BSD's sysexits.h puts it; Python's own would be 1
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # what a shell reports for any program whose reader went away

_HUB_CLIENTS = ("huggingface_hub", "httpx", "httpx2", "requests")

EPILOG = """\
exit status: 0 success; 1 some inputs were left out, or a check failed; 2 wrong usage or an error;
70 a bug, with a traceback; 130 interrupted; 141 the reader of the output went away; 143 stopped by
a signal after saving: the same command continues.
'cassle-zoo COMMAND --help' shows the options of a command."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="cassle-zoo",
        description="Augmentation-aware self-supervised vision models (CASSLE): "
        "load, extract features, pretrain, measure, publish.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cassle-zoo {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    models.add_parser(subparsers)
    features.add_parser(subparsers)
    whiten.add_parser(subparsers)
    demo.add_parser(subparsers)
    explore.add_parser(subparsers)
    subparsers.add_parser("train", help="pretrain a backbone on your own images", add_help=False)
    subparsers.add_parser("eval", help="measure backbones on a dataset", add_help=False)
    hub.add_parser(subparsers)
    reproduce.add_parser(subparsers)
    upgrade.add_parser(subparsers)
    env.add_parser(subparsers)
    completion.add_parser(subparsers, parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status, as described by ``cassle-zoo --help``.

    Raises:
        SystemExit: From argparse, for ``--help`` and wrong usage.
        Exception: Any other is a bug; without `argv`, it is printed and its status is 70.
    """
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except Exception:
        if argv is not None:
            raise
        traceback.print_exc()
        print("cassle-zoo: this is a bug; please report it with the lines above.", file=sys.stderr)
        return EXIT_BUG


def _main(arguments: list[str]) -> int:
    # Errors that a user can fix are reported in one line instead of a traceback.
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except CassleZooError as error:
        return _report(error)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        # The Hub cannot be reached or lacks a file; else a bug, if it is not about a user's file.
        of_hub = type(error).__module__.partition(".")[0] in _HUB_CLIENTS
        if error.filename is None and not of_hub:
            raise
        return _report(error)
    except RuntimeError as error:
        # torch raises it from a signal handler, so anywhere, even while another is handled.
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
        return EXIT_INTERRUPTED


def _run(arguments: list[str]) -> int:
    # The settings of trainer and evaluators define the options of these two.
    if arguments[:1] == ["train"]:
        from cassle_zoo.train import main as train

        return train.run_from_cli(arguments[1:])
    if arguments[:1] == ["eval"]:
        from cassle_zoo.eval import main as evaluation

        return evaluation.run_from_cli(arguments[1:])
    args = build_parser().parse_args(arguments)
    status: int = args.run(args)
    return status


def _report(error: Exception) -> int:
    print(f"cassle-zoo: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return EXIT_ERROR
