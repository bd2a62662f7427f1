"""k-NN and retrieval with whitened features, where a nuisance fills the raw ones."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import EvalData, Task, TaskKind, whitened
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.main import run_from_cli
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.retrieval import Retrieval
from cassle_zoo.features.whitening import Whitening


@pytest.fixture(scope="module")
def data(emoji_tar):
    return open_data("emoji64", emoji_tar)


def context(data, name, width, loud):
    """What a label says, a little noise (`width`), and strong directions of noise (`loud`)."""
    targets = next(task.targets for task in data.tasks if task.name == name)
    generator = torch.Generator().manual_seed(0)
    count = int(targets.max()) + 1
    unlabelled = torch.randint(count, targets.shape, generator=generator)
    codes = torch.randn(count, width, generator=generator)
    quiet = codes[torch.where(targets < 0, unlabelled, targets)]
    quiet += 0.05 * torch.randn(quiet.shape, generator=generator)
    nuisance = 100 * torch.randn(len(quiet), loud, generator=generator)
    features = torch.cat([quiet, nuisance], 1)
    return SimpleNamespace(data=data, features=features, source=SimpleNamespace(name="made up"))


def test_knn_sees_through_the_nuisance(data):
    found = [KNN(whiten=whiten).evaluate(context(data, "vendor", 5, 2)) for whiten in (None, 7)]
    raw, white = (outcome.metrics["vendor"]["knn_top1"] for outcome in found)
    assert raw < 0.6
    assert white > 0.9
    assert "whitened" not in found[0].protocol["k-NN"]
    assert "whitened to 7 principal components" in found[1].protocol["k-NN"]


def test_retrieval_sees_through_the_nuisance(data):
    found = [
        Retrieval(ks=(1,), classification="none", examples=1, whiten=whiten).evaluate(
            context(data, "flags", 8, 1)
        )
        for whiten in (None, 9)
    ]
    raw, white = (outcome.metrics["flags"]["recall@1"] for outcome in found)
    assert raw < 0.5
    assert white > 0.7
    assert found[0].files["flags.html"] != found[1].files["flags.html"]
    assert "whitened to 9 principal components" in found[1].protocol["retrieval"]


def test_too_many_components(data):
    with pytest.raises(ConfigError, match="10 components: expected 1 to 9"):
        KNN(whiten=10).evaluate(context(data, "flags", 8, 1))
    few = context(data, "flags", 8, 1)
    flags = tuple(task for task in data.tasks if task.name == "flags")
    few.data = dataclasses.replace(data, tasks=flags)
    with pytest.raises(DataError, match=r"needs 18 .*got 14\b.*at most 7\b"):
        Retrieval(classification="none", examples=0, whiten=9).evaluate(few)
    with pytest.raises(ConfigError, match=r"whiten .*at least 1"):
        KNN(whiten=0)


def test_a_whitening_is_opened_before_features_are_extracted(data):
    fresh = SimpleNamespace(data=data, source=SimpleNamespace(name="made up"))  # has no features
    with pytest.raises(DataError, match="no whitening absent"):
        KNN(whiten=Path("absent")).evaluate(fresh)


def test_command(emoji_folder, tmp_path, capsys):
    argv = ["knn", "random-init:test_resnet", "--data", str(emoji_folder), "-o", str(tmp_path)]
    assert run_from_cli([*argv, "--whiten", "5", "--no-cache", "--device", "cpu"]) == 0
    assert "whitened to 5 principal components" in next(tmp_path.glob("*.json")).read_text()


def test_fitted_to_what_may_be_seen() -> None:
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))

    def task(name: str, kind: TaskKind, **splits: range) -> Task:
        found = {key: torch.tensor(rows) for key, rows in splits.items()}
        return Task(name=name, kind=kind, targets=torch.zeros(60), splits=found)

    classes = task("a", "classification", train=range(20), val=range(20, 30), test=range(30, 60))
    more = task("b", "classification", train=range(25), val=range(40, 45), test=range(50, 60))
    found = task("c", "retrieval", query=range(10), gallery=range(10, 60))
    for tasks, rows in [
        ((classes, more, found), [*range(30), *range(40, 45)]),
        ((found,), [*range(10, 60)]),
    ]:
        data = EvalData(name="made up", sha256="0", images=[], tasks=tasks)
        expected = Whitening.fit(features[rows], 4)(features)
        own: Any = SimpleNamespace(data=data, features=features)
        torch.testing.assert_close(whitened(own, 4)[0], expected, rtol=0, atol=0)
        same, rule = whitened(own, None)
        assert same is features
        assert rule == ""
