import shlex
from pathlib import Path

import pytest
import tyro

from cassle_zoo.eval.base import Compute
from cassle_zoo.eval.command import public_command
from cassle_zoo.eval.main import Arguments
from cassle_zoo.eval.protocols import EVALUATORS


def command(task, model, data, *settings, dataset=None):
    return public_command(
        task, model, Path(data), dataset=dataset, download=False, settings=[*settings]
    )


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("knn", ["--k", "5", "--temperature", "0.5", "--seed", "3", "--device", "cpu"]),
        ("emoji64", ["--knn.k", "5", "--linear.sweep-tolerance", "0.01", "--batch-size", "9"]),
        ("retrieval", ["--ks", "1", "2", "--classification", "test"]),
        ("few-shot", ["--normalize", "--shots", "1"]),
        ("spectrum", ["--no-figures", "--components", "2", "9"]),
        ("finetune", ["--tasks", "cars", "--labels", "0.5"]),
    ],
)
def test_the_command_gives_the_same_settings(task, options):
    def parse(words):
        return tyro.cli(
            Arguments[EVALUATORS[task]], config=(tyro.conf.FlagCreatePairsOff,), args=words
        )

    given = parse(["raw-pixels", "--data", "cars", *options])
    written = command(task, "raw-pixels", "cars", given.compute, given.settings)
    assert parse(shlex.split(written)[3:]) == given


def test_folders_of_the_user_are_not_shown():
    assert command("knn", "features:/me/a=b.npz", "/me/c d") == (
        "cassle-zoo eval knn features:a=b.npz --data 'c d'"
    )
    assert command("knn", "local-dir:/me/mine", ".", Compute(cache=Path("/me"), no_cache=True)) == (
        f"cassle-zoo eval knn local-dir:mine --data {Path.cwd().name}"
    )
    assert command("knn", "raw-pixels", "x", dataset="folder").endswith("--dataset folder")
