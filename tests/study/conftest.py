"""A study of small networks, one epoch each, on a tiny data set."""

import dataclasses
from pathlib import Path

import pytest
from tiny_emoji64 import write_folder

from cassle_zoo.eval.evaluators.equivariance import Equivariance
from cassle_zoo.eval.evaluators.sensitivity import Sensitivity
from cassle_zoo.eval.results import Result
from cassle_zoo.study import job
from cassle_zoo.study.design import Design
from cassle_zoo.study.job import Machine
from cassle_zoo.study.records import Record
from cassle_zoo.study.run import Walk
from cassle_zoo.train.recipes.emoji64 import resnet18_cassle_simclr


@pytest.fixture(scope="session")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("emoji64")
    write_folder(root)
    return root


@pytest.fixture
def design() -> Design:
    recipe = resnet18_cassle_simclr()
    base = dataclasses.replace(
        recipe,
        arch="test_resnet",
        augment=dataclasses.replace(recipe.augment, size=32),
        optim=dataclasses.replace(recipe.optim, batch_size=64),
        run=dataclasses.replace(recipe.run, monitor_every=0, checkpoint_every=1),
    )
    return Design(base=base, epochs=1, grid_epochs=1, seeds=2)


@pytest.fixture
def walk(emoji: Path, design: Design, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Walk:
    """All evaluations, but of few pictures."""
    small = Sensitivity(pictures=16, augmentations=("crop",), strengths=(1.0,), figures=False)
    monkeypatch.setitem(job.EVALUATORS, "sensitivity", small)
    found = Equivariance(pictures=200, candidates=5, figures=False)
    monkeypatch.setitem(job.EVALUATORS, "equivariance", found)
    machine = Machine(device="cpu", threads=1, data_workers=0)
    return Walk(out=tmp_path / "study", data=emoji, design=design, machine=machine)


@pytest.fixture
def record() -> Record:
    return Record(
        arm="a_simclr",
        group="main",
        against="",
        seed=0,
        settings={"name": "a_simclr.emoji64", "optim": {"base_lr": 0.1, "weight_decay": 0.0}},
        results={
            "emoji64": Result(
                task="emoji64",
                model={"name": "a_simclr.emoji64", "sha256": None},
                data={"name": "emoji64", "sha256": "0"},
                protocol={},
                metrics={"flags": {"recall@1": 0.25}},
                seed=0,
                versions={},
                command="",
                seconds={},
                created="",
            )
        },
        neighbours={"flags": [[3, 1, 2]]},
        seconds={"train": 60.0, "evaluate": 30.0},
        device="cpu",
    )
