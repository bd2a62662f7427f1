"""The evaluators that run networks, from the command line, on images like emoji64's."""

import pytest

from cassle_zoo.eval.main import run_from_cli
from cassle_zoo.records import Result

MODELS = ("resnet18_cassle_simclr", "raw-pixels")


@pytest.mark.parametrize(
    ("task", "options", "row"),
    [
        ("sensitivity", "--images 16 --augmentations crop --strengths 1", "crop"),
        ("equivariance", "--images 120 --candidates 5", "color_diff"),
    ],
)
def test_command(task, options, row, emoji_folder, tmp_path, capsys):
    argv = [task, *MODELS, "--data", str(emoji_folder), "-o", str(tmp_path), *options.split()]
    assert run_from_cli([*argv, "--no-figures", "--no-cache", "--device", "cpu"]) == 0
    assert f"| {row} " in capsys.readouterr().out
    results = [Result.load(path) for path in tmp_path.glob("*.json")]
    assert {result.model.name for result in results} == {f"{MODELS[0]}.emoji64", MODELS[1]}
    assert all(row in result.metrics for result in results)
