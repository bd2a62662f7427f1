"""What cannot be measured is refused, and said in one line."""

import dataclasses
import math
import re
import warnings

import pytest
import torch

from cassle_zoo.common.errors import CassleZooError, ConfigError, DataError
from cassle_zoo.eval.base import Compute, EvalContext, EvalData
from cassle_zoo.eval.protocols import EVALUATORS
from cassle_zoo.eval.protocols.emoji64 import Emoji64Suite
from cassle_zoo.eval.protocols.few_shot import FewShot
from cassle_zoo.eval.protocols.finetune import Finetune
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.linear_probe import LinearProbe
from cassle_zoo.eval.protocols.retrieval import Retrieval
from cassle_zoo.eval.protocols.semi_supervised import SemiSupervised
from cassle_zoo.eval.protocols.spectrum import Spectrum
from cassle_zoo.eval.sources import FeatureSource
from cassle_zoo.features.extract import FeatureSet

OF_FEATURES = [
    KNN(),
    LinearProbe(),
    FewShot(ways=2, queries=2, episodes=4),
    SemiSupervised(draws=1),
    Retrieval(examples=0),
    Spectrum(components=(1, 3), figures=False),
]


def context(data: EvalData, features: torch.Tensor) -> EvalContext:
    known = FeatureSet(features=features, sources=[f"{i}.png" for i in range(len(features))])
    source = FeatureSource(name="given", sha256=None, model=None, features=known, transform=None)
    return EvalContext(source, data, Compute())


@pytest.fixture
def features():
    return torch.randn(100, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("evaluator", OF_FEATURES, ids=lambda e: type(e).__name__)
def test_features_that_are_nothing(data, features, evaluator):
    evaluator.evaluate(context(data, features))
    for bad, message in (
        (features * 0, "all features of given on small are zero"),
        (features[:, :0], r"are \(100, 0\)"),
    ):
        with pytest.raises(DataError, match=message):
            evaluator.evaluate(context(data, bad))
    features[[3, 7]] = math.nan
    with pytest.raises(DataError, match=r"2 of 100 .*NaN .*number 3"):
        evaluator.evaluate(context(data, features))


def test_more_neighbours_than_there_are_stand_in_the_protocol(data, features):
    [rule] = KNN(k=5000).evaluate(context(data, features)).protocol.values()
    assert re.search(r"k=5000.*; all \d\d neighbours of .+, as there are no more", rule)
    [rule] = KNN(k=2).evaluate(context(data, features)).protocol.values()
    assert "no more" not in rule


def test_neighbours_of_every_class_are_needed(data, features):
    [task] = data.tasks_of("classification")
    targets = task.targets.clone()
    targets[task.splits["test"][0]] = 2
    task = dataclasses.replace(task, targets=targets, classes=(*task.classes, "third"))
    few = dataclasses.replace(data, tasks=(task,))
    with pytest.raises(DataError, match=r"no training or validation images .* tested: third"):
        KNN().evaluate(context(few, features))


def test_test_images_are_needed(data, features):
    [task] = data.tasks_of("classification")
    task = dataclasses.replace(task, splits={**task.splits, "test": task.splits["test"][:0]})
    few = dataclasses.replace(data, tasks=(task,))
    for evaluator in (KNN(), LinearProbe(), Retrieval(examples=0)):
        with pytest.raises(DataError, match=r"no test|0 queries"):
            evaluator.evaluate(context(few, features))


def test_one_vector_of_zeros_has_no_direction(data, features):
    features[4] = 0
    for evaluator in (KNN(), Retrieval(examples=0)):
        with pytest.raises(DataError, match="no direction"):
            evaluator.evaluate(context(data, features))
    LinearProbe().evaluate(context(data, features))


@pytest.mark.parametrize("evaluator", [KNN(), LinearProbe(), Retrieval(), FewShot()])
def test_one_class(data, features, evaluator):
    task = dataclasses.replace(data.tasks[0], targets=torch.zeros(100).long(), classes=("even",))
    with pytest.raises(DataError, match="class"):
        evaluator.evaluate(context(dataclasses.replace(data, tasks=(task,)), features))


def test_recall_beyond_the_gallery_is_noted(data, features):
    outcome = Retrieval(ks=(1, 80, 81), examples=0).evaluate(context(data, features))
    assert outcome.protocol["any, recall@81"] == "of all 80 images there are to find"
    assert outcome.metrics["any"]["recall@81"] == 1


def test_a_query_is_not_among_the_images_there_are_to_find(data, features):
    outcome = Retrieval(ks=(19, 20), classification="test", examples=0).evaluate(
        context(data, features)
    )
    assert outcome.protocol["any, recall@20"] == "of all 19 images there are to find"
    assert "any, recall@19" not in outcome.protocol


def test_huge_features(data, features):
    with pytest.raises(DataError, match=r"as large as \d\.\de\+2[56]"):
        LinearProbe().evaluate(context(data, features * 1e25))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LinearProbe().evaluate(context(data, features * 1e9))
    (own,) = caught
    assert "of 46 fits of the linear probe" in str(own.message)


def test_the_suite_is_for_emoji64(data, features):
    with pytest.raises(DataError, match=r"small .*tasks any.*use linear-probe"):
        Emoji64Suite().evaluate(context(data, features))


@pytest.mark.parametrize("task", EVALUATORS)
def test_settings_are_finite(task):
    made = EVALUATORS[task]()
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, float) or (
            isinstance(value, tuple) and value and type(value[0]) in (int, float)
        ):
            for bad in (math.nan, math.inf):
                wrong = tuple([bad] * len(value)) if isinstance(value, tuple) else bad
                with pytest.raises(ConfigError, match=field.name):
                    dataclasses.replace(made, **{field.name: wrong})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Compute(seed=99999999999999999999),
        lambda: Compute(batch_size=0),
        lambda: Retrieval(ks=()),
        lambda: SemiSupervised(fractions=(0.1, 0.1)),
        lambda: Finetune(warmup_epochs=31),
        lambda: Finetune(lr=()),
    ],
)
def test_settings_out_of_range(make):
    with pytest.raises(CassleZooError, match="must be"):
        make()
