"""The completion script, asked by a shell."""

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import cassle_zoo
from cassle_zoo.cli.main import main
from cassle_zoo.train.recipes import RECIPES

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
function=$(complete -p cassle-zoo | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function cassle-zoo "${COMP_WORDS[-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    path = tmp_path_factory.mktemp("completion") / "cassle-zoo"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as file:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0
    return path


def complete(script: Path, line: str) -> set[str]:
    words = ["cassle-zoo", *line.split(" ")]
    command = ["bash", "-c", ASK, "ask", str(script), *words]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_commands(script: Path) -> None:
    assert {"list", "features", "train", "eval", "hub", "env"} <= complete(script, "")
    assert complete(script, "tra") == {"train"}
    assert "push" in complete(script, "hub ")


def test_recipes_and_settings(script: Path) -> None:
    assert complete(script, "train resnet50_cassle_simclr.") == {
        name for name in RECIPES if name.startswith("resnet50_cassle_simclr.")
    }
    options = complete(script, "train resnet18_simclr.emoji64 --optim.")
    assert {"--optim.epochs", "--optim.base-lr", "--optim.no-decay-all"} <= options


def test_evaluations_and_their_options(script: Path) -> None:
    assert {"knn", "linear-probe", "report"} <= complete(script, "eval ")
    assert {"--k", "--batch-size", "--data"} <= complete(script, "eval knn --")
    assert "--k" not in complete(script, "eval linear-probe --")
    assert complete(script, "eval sensitivity --no-") == {"--no-cache", "--no-figures"}
    assert "--figures" not in complete(script, "eval sensitivity --")
    assert {"--latex", "--no-figures"} <= complete(script, "eval report --")


@pytest.mark.parametrize("line", ["info", "eval knn", "eval knn raw-pixels", "hub pull"])
def test_models(script: Path, line: str) -> None:
    names = complete(script, f"{line} resnet18_cassle")
    assert names == set(cassle_zoo.list_models("resnet18_cassle*"))


@pytest.mark.parametrize(
    "line",
    [
        *("features resnet18_simclr x -o", "whiten", "whiten x --output", "eval report"),
        *("train resnet18_simclr --data", "train resnet18_simclr --preview"),
        *("eval knn raw-pixels --data", "eval knn raw-pixels -o"),
        *("hub export", "hub card x --results"),
    ],
)
def test_files(script: Path, line: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    found = complete(script, f"{line} {tmp_path}/pho")
    assert {path.rstrip("/") for path in found} == {f"{tmp_path}/photos"}
    assert not complete(script, f"features resnet18_simclr x --batch-size {tmp_path}/pho")


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "resnet18_cassle_simclr.emoji64" in script
    assert "%%" not in script


def test_help_is_a_format_as_python_3_14_checks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_parser = argparse._SubParsersAction.add_parser

    def checked(self: Any, name: str, *, help: str = "-", **options: Any) -> Any:
        assert help % {"prog": name}
        return add_parser(self, name, help=help, **options)

    monkeypatch.setattr(argparse._SubParsersAction, "add_parser", checked)
    assert main(["completion", "bash"]) == 0
    assert "semi-supervised" in capsys.readouterr().out
