"""Names and texts of others do not reach a terminal raw."""

from pathlib import Path

import pytest

from cassle_zoo.cli import printable
from cassle_zoo.cli.features import report_skipped
from cassle_zoo.cli.main import main
from cassle_zoo.features.inputs import Skipped

HOSTILE = "a\x1b[2J\x07\nb\u202egnp\udce9.png"
ESCAPED = r"a\x1b[2J\x07\nb\u202egnp\udce9.png"


def test_only_what_steers_is_escaped() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable("Ångström 猫 😀.png") == "Ångström 猫 😀.png"


def test_left_out_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_skipped([Skipped(HOSTILE, "no \x1b image")]) == 1
    assert capsys.readouterr().err == f"cassle-zoo: left out {ESCAPED}: no \\x1b image\n"


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["hub", "convert", str(tmp_path / "\x1b[2J"), "-o", str(tmp_path), "--name", "m"]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert r"\x1b[2J" in said
    assert "\x1b" not in said
