"""The command line of the evaluation, on a tiny data set."""

import pytest

from cassle_zoo.errors import ConfigError, UnknownNameError
from cassle_zoo.eval.evaluators import EVALUATORS
from cassle_zoo.eval.main import run_from_cli
from cassle_zoo.eval.results import Result


@pytest.fixture
def arguments(emoji_tar, tmp_path):
    return ["--data", str(emoji_tar), "--cache", str(tmp_path / "cache")]


def test_models_side_by_side(arguments, capsys):
    assert run_from_cli(["knn", "raw-pixels", "random-init:test_resnet", *arguments]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["|", "|", "raw-pixels", "|", "random-init:test_resnet", "|"]
    assert [row.split()[1:3] for row in rows[:2]] == [
        ["subcategory", "knn_top1"],
        ["subcategory", "knn_mean_per_class"],
    ]


def test_results_are_recorded(arguments, tmp_path, capsys):
    assert run_from_cli(["knn", "raw-pixels", *arguments, "-o", str(tmp_path / "one.json")]) == 0
    one = Result.load(tmp_path / "one.json")
    assert (one.task, one.model["name"]) == ("knn", "raw-pixels")
    assert one.command == "cassle-zoo eval knn raw-pixels --data emoji64.tar"
    models = ["raw-pixels", "random-init:test_resnet"]
    assert run_from_cli(["knn", *models, *arguments, "-o", str(tmp_path / "all")]) == 0
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        "knn--emoji64_modified_--raw-pixels.json",
        "knn--emoji64_modified_--random-init_test_resnet.json",
    }


def test_several_models_need_a_folder(arguments):
    with pytest.raises(ConfigError, match="give a folder"):
        run_from_cli(["knn", "raw-pixels", "a", *arguments, "-o", "one.json"])


def test_unknown_names(arguments, emoji_tar):
    with pytest.raises(UnknownNameError, match=r"evaluation 'kn'.*knn"):
        run_from_cli(["kn", "raw-pixels", *arguments])
    with pytest.raises(UnknownNameError, match=r"data set 'cats'.*emoji64"):
        run_from_cli(["knn", "raw-pixels", *arguments, "--dataset", "cats"])
    with pytest.raises(ConfigError, match="at least one model"):
        run_from_cli(["knn", *arguments])


def test_help_lists_the_evaluations(capsys):
    assert run_from_cli(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in EVALUATORS)


def test_no_evaluation_named(capsys):
    assert run_from_cli([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "knn" in err
