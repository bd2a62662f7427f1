"""Random words on the command line: an exit status and a message, never a traceback."""

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cassle_zoo.cli.main import main

pytestmark = pytest.mark.slow

# Not upgrade, which rewrites files in any folder that is named.
COMMANDS = (
    "list", "info", "features", "whiten", "demo", "train", "eval", "hub", "hub export",
    "hub convert", "hub push", "hub verify", "reproduce", "env", "completion",
)  # fmt: skip
MODELS = ("resnet18_cassle_simclr.emoji64", "resnet18_cassle_simclr", "local-dir:nowhere", "raw")
FLAGS = (
    "--out", "--data", "--optim.epochs", "--optim.batch-size", "--optim.base-lr", "--run.device",
    "--run.timeout", "--method.temperature", "--augment.size", "--augment.crop-scale",
    "--conditioning.mode", "--conditioning.descriptors", "--run.loggers", "--data.samples", "-o",
    "--output", "--batch-size", "--precision", "--workers", "--device", "--name", "--pretrained",
    "--dataset", "--seed", "--k", "--help", "--version", "--dry-run", "--print-config", "--",
)  # fmt: skip
VALUES = ("0", "-1", "1e400", "nan", "None", "", "x", "nowhere/x.npz", "knn", "emoji64", "1", "cpu")
WORDS = st.one_of(
    st.sampled_from((*MODELS, *FLAGS, *VALUES)),
    st.builds("=".join, st.tuples(st.sampled_from(FLAGS), st.sampled_from(VALUES))),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a word names is there, and what is written is thrown away."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(arguments: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: object = main(arguments)
        except SystemExit as stop:
            status = stop.code or 0
    assert status in (0, 1, 2), (arguments, status)
    assert "Traceback" not in err.getvalue()
    if status == 2:
        assert err.getvalue().strip(), arguments


@given(st.sampled_from(COMMANDS), st.lists(WORDS, max_size=4))
def test_words(command: str, words: list[str]) -> None:
    if command == "demo" and not any(word.startswith("-") for word in words):
        words = [*words, "--no-such-option"]  # the demo itself takes seconds
    run([*command.split(), *words])


@given(st.sampled_from(FLAGS), st.sampled_from(VALUES) | st.text(max_size=5))
def test_settings_of_training(flag: str, value: str) -> None:
    run(["train", MODELS[0], "--data", "nowhere", "--out", "run", flag, value])


@given(st.sampled_from(["knn", "emoji64", "spectrum"]), st.sampled_from(FLAGS), st.text(max_size=5))
@example("knn", "--out", "\0")
def test_settings_of_evaluation(task: str, flag: str, value: str) -> None:
    run(["eval", task, "raw-pixels", "--data", "nowhere", flag, value])
