"""Evaluators of features, without a network."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import Compute, EvalContext, EvalData, Task
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols import EVALUATORS
from cassle_zoo.eval.protocols.few_shot import FewShot
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.linear_probe import LinearProbe, Samples, linear_probe
from cassle_zoo.eval.protocols.regression import Regression
from cassle_zoo.eval.protocols.retrieval import Retrieval, retrieve
from cassle_zoo.eval.protocols.semi_supervised import SemiSupervised, choose_labelled
from cassle_zoo.eval.runner import evaluate
from cassle_zoo.eval.sources import FeatureSource
from cassle_zoo.features.extract import FeatureSet

COUNT = 400


def make_context(*, kind="classification", classes=8, noise=1.5, compute=None, targets=None):
    """Features that are noisy copies of what is to be predicted from them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) % classes
    features = torch.randn(classes, 16, generator=generator)[labels]
    features += noise * torch.randn(COUNT, 16, generator=generator)
    if kind == "regression":
        targets = features[:, :3] * 2 + torch.randn(COUNT, 3, generator=generator)
    task = Task(
        name="made",
        kind=kind,
        targets=labels if targets is None else targets,
        splits={
            "train": torch.arange(240),
            "val": torch.arange(240, 300),
            "test": torch.arange(300, COUNT),
        },
        classes=tuple(map(str, range(classes))) if kind == "classification" else (),
    )
    data = EvalData(name="made", sha256="0", images=range(COUNT), tasks=(task,))
    known = FeatureSet(features=features, sources=[str(i) for i in range(COUNT)])
    source = FeatureSource(name="f", sha256=None, model=None, features=known)
    return EvalContext(source, data, compute or Compute())


SMALL = FewShot(ways=4, queries=6, episodes=40)
EVALUATORS_BY_KIND = [
    ("classification", SMALL),
    ("classification", SemiSupervised(draws=2)),
    ("regression", Regression()),
]


def test_the_metric_of_the_data_chooses():
    context = make_context()
    expected = {"top1": "top-1", "mean_per_class": "mean per class"}
    for metric, words in expected.items():
        (task,) = context.data.tasks
        tasks = (dataclasses.replace(task, metric=metric),)
        context.data = dataclasses.replace(context.data, tasks=tasks)
        probe = LinearProbe(sweep_tolerance=0.1).evaluate(context)
        samples = Samples.of(context.features, task)
        by_hand = linear_probe(*samples, num_classes=8, metric=metric, sweep_tolerance=0.1)
        assert probe.series == {f"made: validation {words} by w": list(by_hand.validation)}
        few = SemiSupervised(fractions=(0.5,), draws=1, sweep_tolerance=0.1).evaluate(context)
        for outcome in (probe, few):
            assert f"selection: {words} on validation" in outcome.protocol["linear probe"]


def test_knn_agrees_with_sklearn():
    context = make_context()
    (task,) = context.data.tasks
    features, labels = context.features.double().numpy(), task.targets.numpy()
    outcome = KNN(k=7, temperature=0.5).evaluate(context)
    reference = KNeighborsClassifier(
        7, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.5)
    ).fit(features[:300], labels[:300])
    expected = reference.predict(features[300:])
    (scores,) = outcome.scores
    assert scores.predicted.tolist() == expected.tolist()
    votes = reference.predict_proba(features[300:])
    np.testing.assert_allclose(scores.confidence, votes.max(1), rtol=1e-5)
    assert outcome.metrics["made"] == {
        "knn_top1": pytest.approx(accuracy_score(labels[300:], expected)),
        "knn_mean_per_class": pytest.approx(balanced_accuracy_score(labels[300:], expected)),
    }


def test_galleries_of_retrieval():
    context = make_context()
    (task,) = context.data.tasks
    test = context.features[300:], task.targets[300:]
    known = context.features[:300], task.targets[:300]
    for classification, gallery in (("train", known), ("test", test)):
        own = torch.arange(100) if classification == "test" else None
        expected = retrieve(*test, *gallery, ks=(2,), positions=own)
        found = Retrieval(classification=classification, ks=(2,), examples=0).evaluate(context)
        assert found.metrics["made"] == {
            "recall@2": pytest.approx(float(expected.recall[2].mean())),
            "mAP": pytest.approx(float(expected.average_precision.mean())),
        }


def test_commands():
    assert EVALUATORS["few-shot"] is FewShot
    assert EVALUATORS["semi-supervised"] is SemiSupervised
    assert EVALUATORS["regression"] is Regression


@pytest.mark.parametrize(("kind", "evaluator"), EVALUATORS_BY_KIND)
def test_twice_is_the_same(kind, evaluator):
    first, second = (evaluator.evaluate(make_context(kind=kind)) for _ in range(2))
    assert first.metrics == second.metrics
    assert first.protocol == second.protocol


@pytest.mark.parametrize(("kind", "evaluator"), EVALUATORS_BY_KIND)
def test_features_that_are_nan(kind, evaluator):
    context = make_context(kind=kind)
    context.features[:, 0] = float("nan")
    with pytest.raises(DataError, match="NaN"):
        evaluator.evaluate(context)


@pytest.mark.parametrize(("kind", "evaluator"), EVALUATORS_BY_KIND)
def test_data_without_such_a_task(kind, evaluator):
    other = "regression" if kind == "classification" else "classification"
    with pytest.raises(DataError, match=f"no task of the kind {kind}"):
        evaluator.evaluate(make_context(kind=other))


def test_few_shot_numbers():
    values = SMALL.evaluate(make_context()).metrics["made"]
    assert list(values) == [
        "4way_1shot_accuracy",
        "4way_1shot_accuracy_ci95",
        "4way_5shot_accuracy",
        "4way_5shot_accuracy_ci95",
    ]
    assert 0.3 < values["4way_1shot_accuracy"] < values["4way_5shot_accuracy"] < 1
    assert 0 < values["4way_1shot_accuracy_ci95"] < 0.1
    other = SMALL.evaluate(make_context(compute=Compute(seed=1))).metrics["made"]
    assert other != values


def test_few_shot_settings_matter():
    expected = SMALL.evaluate(make_context()).metrics
    for change in ({"normalize": True}, {"l2": 50.0}, {"images": "test"}):
        assert dataclasses.replace(SMALL, **change).evaluate(make_context()).metrics != expected
    with pytest.raises(ConfigError, match="different values"):
        FewShot(shots=(1, 1))
    unit, scaled = make_context(), make_context()
    scaled.features.mul_(torch.linspace(0.5, 2, COUNT)[:, None])
    one, other = (dataclasses.replace(SMALL, normalize=True).evaluate(c) for c in (unit, scaled))
    assert one.metrics == other.metrics


def test_few_shot_of_features_whose_length_half_precision_cannot_hold():
    context = make_context()
    exact = context.source.features.features
    found = []
    for features in (exact, (exact * (60_000 / exact.abs().max())).half()):
        context = make_context()
        known = dataclasses.replace(context.source.features, features=features, outputs={})
        context.source = dataclasses.replace(context.source, features=known)
        found.append(FewShot(episodes=20, normalize=True).evaluate(context).metrics["made"])
    assert found[1] == pytest.approx(found[0], abs=0.01)


def test_few_shot_with_few_classes():
    with pytest.raises(DataError, match=r"made .*few-shot: .*left out.*5-way"):
        FewShot(episodes=2).evaluate(make_context(classes=3))


def test_few_shot_says_what_was_left_out():
    labels = torch.arange(COUNT) % 8
    rows = (labels == 7).nonzero().flatten()
    labels[rows[1:]] = 6
    one = "made, 1 shot: 1 classes of fewer than 7 images left out"
    five = "made, 5 shots: 1 classes of fewer than 11 images left out"
    outcome = SMALL.evaluate(make_context(targets=labels))
    assert outcome.protocol["few-shot notes"] == f"{one}; {five}"
    labels[rows[:8]] = 7
    outcome = SMALL.evaluate(make_context(targets=labels))
    assert outcome.protocol["few-shot notes"] == five


def test_semi_supervised_numbers():
    outcome = SemiSupervised(draws=3).evaluate(make_context())
    values = outcome.metrics["made"]
    assert outcome.scores[0].means()["1%_top1"] == pytest.approx(values["1%_top1"], abs=1e-12)
    assert list(values)[:3] == ["1%_top1", "1%_top1_std", "1%_mean_per_class"]
    assert 1 / 8 < values["1%_top1"] < values["10%_top1"] <= 1
    assert values["1%_top1_std"] > 0
    # A single draw says nothing about the spread.
    once = SemiSupervised(draws=1).evaluate(make_context()).metrics["made"]
    assert list(once) == [name for name in values if not name.endswith("_std")]


def test_semi_supervised_uses_no_other_label():
    expected = SemiSupervised(fractions=(0.1,), draws=1).evaluate(make_context())
    assert "made 32 at 10%" in expected.protocol["known labels"]
    labels = torch.arange(COUNT) % 8
    parts = (torch.arange(240), torch.arange(240, 300))
    known = torch.cat([choose_labelled(rows, labels[rows], 0.1, seed=0) for rows in parts])
    context = make_context()
    hidden = torch.ones(300, dtype=torch.bool)
    hidden[known] = False
    context.features[:300][hidden] = 1e6
    found = SemiSupervised(fractions=(0.1,), draws=1).evaluate(context)
    assert found.metrics == expected.metrics


def test_semi_supervised_settings():
    for settings in ({"fractions": ()}, {"fractions": (0.0,)}, {"draws": 0}):
        with pytest.raises(ConfigError):
            SemiSupervised(**settings)


def test_regression_numbers():
    outcome = Regression().evaluate(make_context(kind="regression"))
    assert 0.6 < outcome.metrics["made"]["r2"] < 1
    assert 0.5 < outcome.metrics["made"]["mae"] < 1.2
    assert len(outcome.series["made: R2 of each output"]) == 3
    assert "chosen w" in outcome.protocol


def test_emoji64_by_name_and_with_another_batch_size(emoji_tar):
    data = open_data("emoji64", emoji_tar)
    few_shot = FewShot(ways=3, shots=(1,), queries=4, episodes=20)
    for task, evaluator in (("few-shot", few_shot), ("semi-supervised", SemiSupervised(draws=1))):
        first, second = (
            evaluate(task, evaluator, "raw-pixels", data, compute)[0]
            for compute in (
                Compute(no_cache=True, progress=False),
                Compute(no_cache=True, progress=False, batch_size=7),
            )
        )
        assert first.metrics == second.metrics
        assert {"subcategory", "skin_tone", "vendor"} == set(first.metrics)
