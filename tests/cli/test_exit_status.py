"""Exit statuses are defined once, documented once, and no command has others."""

import argparse
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cassle_zoo import timm_train
from cassle_zoo.cli.main import build_parser, main
from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.data import emoji64_build
from cassle_zoo.eval.main import run_from_cli as run_eval
from cassle_zoo.eval.report.page import run_from_cli as run_report
from cassle_zoo.hub import reference
from cassle_zoo.hub.cards import model_cards
from cassle_zoo.train.main import run_from_cli as run_train

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for room in ("cassle_zoo", "train", "eval", "hub")
    for path in sorted((ROOT / room).rglob("*.py"))
]


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield all commands that argparse knows, with their actions."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices.values():
                yield own.prog, own
                yield from commands(own)


def functions() -> dict[str, Callable[..., Any]]:
    found = {
        name: run
        for name, parser in commands(build_parser())
        if (run := parser.get_default("run")) is not None
    }
    return {
        **found,
        "main": main,
        "train": run_train,
        "eval": run_eval,
        "eval report": run_report,
        "hub.reference": reference.main,
        "model_cards": model_cards.main,
        "emoji64_build": emoji64_build.main,
        "timm_train": timm_train.main,
    }


def test_commands_return_these_statuses_only() -> None:
    """The type checker proves that a function returns what its annotation says."""
    found = functions()
    assert {"cassle-zoo features", "cassle-zoo hub verify", "cassle-zoo whiten"} <= found.keys()
    for name, run in found.items():
        assert typing.get_type_hints(run)["return"] is ExitStatus, name


def test_no_number_is_a_status() -> None:
    numbers = re.compile(r"(?:sys\.exit|SystemExit|os\._exit)\((\d+)\)")
    found = {
        (path.name, int(number))
        for path in SOURCES
        for number in numbers.findall(path.read_text("utf-8"))
    }
    assert found <= {("main.py", 0)}, "use ExitStatus"
    named = [path for path in SOURCES if re.search(r"^_?EXIT_\w+ *=", path.read_text(), re.M)]
    assert not named, "use ExitStatus"


def test_the_page_has_all_statuses() -> None:
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert [(int(number), meaning) for number, meaning in rows] == [
        (status.value, status.meaning) for status in ExitStatus
    ]


def test_the_page_has_all_commands() -> None:
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    for name, _ in commands(build_parser()):
        assert f"`{name.split()[1]}`" in page, name


def test_every_help_names_its_command_and_refers_to_the_statuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [name.split()[1:] for name, _ in commands(build_parser())]
    for words in [[], *names, ["eval", "knn"], ["eval", "report"], ["train", "resnet18_simclr"]]:
        try:
            status: object = main([*words, "--help"])
        except SystemExit as stop:
            status = stop.code or 0
        assert status == 0, words
        shown = " ".join(capsys.readouterr().out.replace("│", " ").split())  # of tyro's box
        assert shown.startswith(" ".join(("usage: cassle-zoo", *words))), words
        assert "exit status: 0" in shown, words
        if words:
            assert "cassle-zoo --help" in shown, words


def test_statuses_are_plain_numbers() -> None:
    assert [*ExitStatus] == [0, 1, 2, 70, 130, 141, 143]
    assert str(ExitStatus.BUG.value) == "70"
    assert inspect.getdoc(ExitStatus)
