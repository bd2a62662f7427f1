"""Entry point of ``cassle-zoo``: picks the command and turns errors into exit statuses."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from cassle_zoo.cli import demo, features, hub, models, printable, reproduce, upgrade
from cassle_zoo.common.errors import CassleZooError
from cassle_zoo.version import __version__

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # what a shell reports for any program whose reader went away

EPILOG = """\
exit status: 0 success; 1 some inputs were left out, or a check failed; 2 wrong usage or an error;
130 interrupted. 'cassle-zoo COMMAND --help' shows the options of a command."""


def _train(argv: list[str]) -> int:
    from cassle_zoo.train.main import run_from_cli

    return run_from_cli(argv)


def _eval(argv: list[str]) -> int:
    from cassle_zoo.eval.main import run_from_cli

    return run_from_cli(argv)


# Settings of trainer and evaluators define their options.
PARSING_THEMSELVES: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "eval": _eval,
}


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
    demo.add_parser(subparsers)
    subparsers.add_parser("train", help="pretrain a backbone on your own images", add_help=False)
    subparsers.add_parser("eval", help="measure backbones on a dataset", add_help=False)
    hub.add_parser(subparsers)
    reproduce.add_parser(subparsers)
    upgrade.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status, as described by ``cassle-zoo --help``.

    Raises:
        SystemExit: From argparse, for ``--help`` and wrong usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in PARSING_THEMSELVES:
        return PARSING_THEMSELVES[arguments[0]](arguments[1:])
    args = build_parser().parse_args(arguments)
    status: int = args.run(args)
    return status


def _guarded(run: Callable[[], int]) -> int:
    """Run, and report the errors that a user can fix in one line instead of a traceback."""
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()
    except CassleZooError as error:
        return _report(error)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if type(error).__module__.partition(".")[0] in (
            "huggingface_hub",
            "httpx",
            "httpx2",
            "requests",
        ):
            return _report(error)  # the Hub cannot be reached, or has no such file
        if error.filename is None:  # not about a file of the user: a bug, show where
            raise
        return _report(error)
    except KeyboardInterrupt:
        print("cassle-zoo: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _report(error: Exception) -> int:
    print(f"cassle-zoo: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return EXIT_ERROR
