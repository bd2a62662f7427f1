"""Names and texts of others do not reach a terminal raw."""

import dataclasses
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import image_folder
from small_models import make_model

from cassle_zoo.cli import main as cli
from cassle_zoo.cli.features import report_skipped
from cassle_zoo.cli.main import main
from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.common.terminal import busy, printable
from cassle_zoo.features.explorer.page import explore
from cassle_zoo.features.gallery import run_demo
from cassle_zoo.features.inputs import Skipped
from cassle_zoo.hub.publish.verify import Check
from cassle_zoo.specs import resolve_spec
from cassle_zoo.train.run.logs import Reporter

HOSTILE = "a\x1b[2J\x07\nb\u202egnp\udce9.png"
ESCAPED = r"a\x1b[2J\x07\nb\u202egnp\udce9.png"


def test_only_what_steers_is_escaped() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable("Ångström 猫 😀.png") == "Ångström 猫 😀.png"


def test_left_out_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_skipped([Skipped(HOSTILE, "no \x1b image")]) == 1
    assert capsys.readouterr().err == f"cassle-zoo: left out {ESCAPED}: no \\x1b image\n"


def test_what_model_folders_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = Check(name="config", passed=True, detail=HOSTILE)
    monkeypatch.setattr("cassle_zoo.hub.publish.verify.verify", lambda *_, **__: [check])
    assert main(["hub", "verify", "model"]) == 0
    assert capsys.readouterr().out == f"ok     config     {ESCAPED}\n"
    spec = dataclasses.replace(resolve_spec("resnet18_simclr"), license=HOSTILE)
    monkeypatch.setattr("cassle_zoo.model_info", lambda _: spec)
    assert main(["info", "model"]) == 0
    assert f"  {ESCAPED}\n" in capsys.readouterr().out


def test_names_of_images_in_the_log_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter.message(SimpleNamespace(_first=True), HOSTILE)  # type: ignore[arg-type]
    assert capsys.readouterr().err == f"{ESCAPED}\n"


def test_names_that_cannot_be_encoded_end_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: list[str]) -> ExitStatus:
        print("caf\udce9")
        return ExitStatus.OK

    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "utf-8"))
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(cli, "_run", run)
    assert main() == ExitStatus.OK
    assert written.getvalue() == b"caf\\udce9\n"


def test_a_command_without_standard_output_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)  # as Python sets it for `cassle-zoo list >&-`
    assert main(["list"]) == 0


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["hub", "convert", str(tmp_path / "\x1b[2J"), "-o", str(tmp_path), "--name", "m"]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert r"\x1b[2J" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("terminal", [True, False])
def test_what_takes_longer_is_shown_on_terminals(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("cassle_zoo.common.terminal._PATIENCE", 0.01)
    with busy("counting \x1b[2J sheep"):
        deadline = time.monotonic() + (30 if terminal else 0.1)
        while not screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    shown = screen.getvalue()
    assert ("counting \\x1b[2J sheep (00:0" in shown) == terminal
    assert not shown.rpartition("\r")[2].strip(), "it stays on the line where the results go"
    assert not terminal or shown.split("\r")[-2].isspace(), "it is not overwritten"
    assert "\x1b[2J" not in shown
    assert terminal or not shown


def test_pages_are_not_made_in_silence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neighbours, maps and decoding once more take minutes for many photos."""
    said: list[str] = []

    @contextmanager
    def busy(what: str) -> Iterator[None]:
        said.append(what)
        yield

    monkeypatch.setattr("cassle_zoo.features.explorer.page.busy", busy)
    monkeypatch.setattr("cassle_zoo.features.gallery.busy", busy)
    images = image_folder(tmp_path / "images", ["a.png", "b.png"])
    explore(str(images), make_model())
    run_demo(make_model(), tmp_path / "demo", [images])
    assert said == ["comparing the images", "drawing the neighbours"]


def on_a_terminal(command: list[str], status: int = 0, **environment: str) -> bytes:
    """Run a command with a terminal of its own as stderr and stdout, and return what it shows."""
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        command, stdout=secondary, stderr=secondary, env={**os.environ, **environment}
    ) as process:
        os.close(secondary)
        shown = b""
        with suppress(OSError):  # how Linux says that the other side is closed
            while piece := os.read(primary, 65536):
                shown += piece
        os.close(primary)
    assert process.returncode == status
    return shown


@pytest.mark.slow
def test_colours_are_for_terminals_that_want_them() -> None:
    command = [sys.executable, "-m", "cassle_zoo", "eval", "knn", "--help"]
    coloured = re.compile(rb"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])[;m]")  # bold may stay
    assert coloured.search(on_a_terminal(command, NO_COLOR="", TERM="xterm"))
    assert not coloured.search(on_a_terminal(command, NO_COLOR="1", TERM="xterm"))
    piped = subprocess.run(command, capture_output=True, check=True)
    assert b"\x1b" not in piped.stdout + piped.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [
        ["features", "resnet18_simclr", "MISSING", "-o", "x.npz"],
        ["whiten", "MISSING", "-o", "x.safetensors"],
        ["explore", "MISSING", "-o", "x.html"],
        ["eval", "knn", "MISSING", "--data", "x"],
        ["train", "MISSING"],
        ["hub", "verify", "MISSING"],
    ],
    ids=lambda argv: argv[0],
)
def test_a_terminal_shows_that_a_command_starts(argv: list[str], tmp_path: Path) -> None:
    """Importing PyTorch takes seconds; so short a patience shows it on any machine."""
    code = (
        "import sys, cassle_zoo.common.terminal as terminal; terminal._PATIENCE = 0.01\n"
        "from cassle_zoo.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    argv = [str(tmp_path / "missing") if word == "MISSING" else word for word in argv]
    command = [sys.executable, "-c", code, *argv]
    assert b"starting (00:0" in on_a_terminal(command, status=2)
    piped = subprocess.run(command, capture_output=True, check=False)
    assert b"starting" not in piped.stderr
    assert not piped.stdout
