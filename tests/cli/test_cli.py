"""The command line: what it prints, and its exit statuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from one_error import fails_with

import cassle_zoo
from cassle_zoo.cli import main as cli
from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import DataError

MODEL = "resnet18_cassle_simclr.emoji64"


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "cassle_zoo", *args]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for name in ("list", "info", "features", "demo", "explore", "train", "eval", "hub", "env"):
        assert f"\n    {name} " in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"cassle-zoo {cassle_zoo.__version__}\n"


@pytest.mark.parametrize("args", [[], ["no-such-command"], ["features", "x"], ["list", "--what"]])
def test_wrong_usage_is_status_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"'cassle-zoo.* --help' shows", fails_with(lambda: main(args), capsys))


def test_list_shows_models_and_whether_weights_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == cassle_zoo.list_models()
    [unpublished] = [line for line in lines if line.startswith("resnet50_cassle_simclr.in100")]
    assert "not published" in unpublished


def test_list_filters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "*resnet18*"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names
    assert all("resnet18" in name for name in names)
    assert main(["list", "--pretrained"]) == 0
    assert "not published" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["resnet18_casle_simclr"], "Did you mean 'resnet18_cassle_simclr'"),
        (["resnet18_cassle_simclr.emoji46"], "Did you mean 'resnet18_cassle_simclr.emoji64'"),
        (["in100"], "'*in100*'"),
        (["vit_base_mocov3", "--pretrained"], "has published weights"),
    ],
)
def test_list_of_nothing(
    args: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", *args]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert expected in err


def test_help_of_train_says_where_the_settings_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "cassle-zoo train RECIPE --help" in capsys.readouterr().out


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", MODEL]) == 0
    fields = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert fields["full_name"] == MODEL
    assert fields["input_size"] == "3, 64, 64"


def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: list[str]) -> int:
        raise DataError("first line\n  second line")

    monkeypatch.setattr(cli, "_run", fail)
    assert fails_with(lambda: main([]), capsys) == "cassle-zoo: error: first line second line\n"


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: list[str]) -> int:
        raise OSError("no file involved")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(OSError, match="no file involved"):
        main([])


def test_interrupt_is_status_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert main([]) == 130
    assert capsys.readouterr().err == "cassle-zoo: interrupted\n"


def test_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        result = subprocess.run(command("list"), stdout=out, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 141
    assert result.stderr == b""


@pytest.mark.parametrize("stage", ["train", "eval"])
def test_arguments_reach_the_stage_unread(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[str] = []

    def run_from_cli(argv: list[str]) -> int:
        received.extend(argv)
        return 3

    monkeypatch.setattr(f"cassle_zoo.{stage}.main.run_from_cli", run_from_cli)
    argv = [MODEL, "--data", "x", "--help", "--", "--version"]
    assert main([stage, *argv]) == 3
    assert received == argv


def test_hub_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["hub", "cards", "--check"]) == 1
    assert "MODEL_CARDS.md" in capsys.readouterr().err
    assert main(["hub", "cards"]) == 0
    assert "resnet50_cassle_simclr" in (tmp_path / "MODEL_CARDS.md").read_text("utf-8")
    assert main(["hub", "cards", "--check"]) == 0
