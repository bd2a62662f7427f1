from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import linear_model
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.augmented import views
from cassle_zoo.eval.protocols import equivariance
from cassle_zoo.eval.protocols.equivariance import (
    L2_GRID,
    Equivariance,
    probe,
    ranks_of_first,
    split_images,
)
from cassle_zoo.eval.solvers.ridge import Ridge

QUICK = Equivariance(candidates=10, figures=False)


def test_metrics(make_context):
    context = make_context()
    outcome = QUICK.evaluate(context)
    names = [*ALL_DESCRIPTORS.names, "mean"]
    assert list(outcome.metrics) == [*names, "omega"]
    for name in names:
        assert list(outcome.metrics[name]) == ["r2_single", "r2_pair"]
        assert all(value < 1 for value in outcome.metrics[name].values())
    # What the jitter does to the means is almost in the features of a pair.
    assert outcome.metrics["color_diff"]["r2_pair"] > 0.5
    assert 0 <= outcome.metrics["omega"]["omega_top1"] <= outcome.metrics["omega"]["omega_mrr"] <= 1
    assert "64 / 16 / 20 images" in outcome.protocol["equivariance"]


def test_features_that_omega_is_added_to(make_context, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(100, 12, generator=generator)
    omega = torch.randn(100, 14, generator=generator)
    encoded = original, original + omega[:, :12], torch.zeros(100, 14), omega
    monkeypatch.setattr(equivariance, "_encode", lambda *_: encoded)
    # Under the right omega the projections of an image and its view are equal.
    monkeypatch.setattr(equivariance, "project", lambda _, y, w, *__, **___: y - w[:, :12])
    metrics = QUICK.evaluate(make_context()).metrics
    assert metrics["omega"] == {"omega_top1": 1.0, "omega_mrr": 1.0}
    for name in ("color", "color_diff", "crop"):
        assert metrics[name]["r2_pair"] > 0.99
        assert 0.1 < metrics[name]["r2_single"] < 0.9


def test_batches_and_the_cache_do_not_matter(make_context):
    expected = QUICK.evaluate(make_context()).metrics
    assert QUICK.evaluate(make_context()).metrics == expected
    for settings in ({"batch_size": 7, "no_cache": True}, {"batch_size": 64, "no_cache": True}):
        found = QUICK.evaluate(make_context(**settings)).metrics
        for name, values in found.items():
            assert values == pytest.approx(expected[name], abs=1e-5)
    assert QUICK.evaluate(make_context(seed=1)).metrics != expected


def test_sources_without_conditioned_projector(make_context):
    for conditioning in ("none", None):
        assert "omega" not in QUICK.evaluate(make_context(conditioning)).metrics


def test_split_follows_the_tasks(data):
    indices = views.draw_images(torch.arange(100), 80, seed=0)
    splits = split_images(data, indices)
    assert (indices[splits["test"]] >= 80).all()
    assert (indices[torch.cat([splits["train"], splits["val"]])] < 80).all()
    assert sorted(torch.cat([*splits.values()]).tolist()) == list(range(80))
    untested = replace(data, tasks=())
    splits = split_images(untested, indices)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [52, 12, 16]
    with pytest.raises(DataError, match="3 val, 4 test"):
        split_images(untested, indices[:20])


def test_wrong_settings(make_context, tmp_path):
    with pytest.raises(ConfigError, match="candidates must be"):
        replace(QUICK, candidates=1).evaluate(make_context())
    with pytest.raises(DataError, match="do not give 50 candidates"):
        replace(QUICK, candidates=50).evaluate(make_context())
    assert not list(tmp_path.iterdir())  # said before features are extracted and cached


def test_figure(make_context):
    outcome = replace(QUICK, figures=True).evaluate(make_context(None))
    assert outcome.files["r2.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("width", [6, 90])  # fewer and more than the samples
@pytest.mark.parametrize("l2", [1e-3, 1.0, 30.0])
def test_ridge_agrees_with_sklearn(width, l2):
    x = torch.randn(60, width) * torch.linspace(0.1, 9, width) + 2
    x[:, 2] = 4  # constant
    y = x[:, :3] * torch.tensor([1.0, -2.0, 0.5]) + torch.randn(60, 3)
    standardised = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    standardised[:, 2] = 0
    reference = linear_model.Ridge(l2 * 60).fit(standardised.numpy(), y.double().numpy())
    found = Ridge(x, y).predict(x, l2 * 60)
    np.testing.assert_allclose(found, reference.predict(standardised.numpy()), atol=1e-8)


def test_probe_finds_what_is_there():
    x = torch.randn(400, 20)
    targets = torch.cat([x[:, :2] @ torch.randn(2, 2), torch.randn(400, 1)], dim=1)
    parts = torch.arange(400).split([240, 60, 100])
    splits = dict(zip(("train", "val", "test"), parts, strict=True))
    scores = probe(x, targets, splits, {"known": slice(0, 2), "noise": slice(2, 3)})
    assert scores["known"] > 0.999
    assert abs(scores["noise"]) < 0.15
    with pytest.raises(DataError, match=r"not defined for known, output 2: all 60 values .* equal"):
        probe(x, targets * 0, splits, {"known": slice(0, 2)})
    with pytest.raises(DataError, match="NaN"):
        probe(x * float("nan"), targets, splits, {"known": slice(0, 2)})
    with pytest.raises(DataError, match="400 features and 399"):
        Ridge(x, targets[1:])


def test_probe_agrees_with_sklearn():
    x = torch.randn(60, 40).double() * torch.linspace(0.1, 9, 40)
    y = x[:, :2].sum(1, keepdim=True) / x[:, :2].std() + torch.randn(60, 1)
    train, val, test = torch.arange(60).split([30, 15, 15])

    def r2(fit, at, l2):
        model = make_pipeline(StandardScaler(), linear_model.Ridge(l2 * len(fit)))
        return r2_score(y[at].numpy(), model.fit(x[fit].numpy(), y[fit].numpy()).predict(x[at]))

    best = max(L2_GRID, key=lambda l2: r2(train, val, l2))
    found = probe(x, y, {"train": train, "val": val, "test": test}, {"it": slice(0, 1)})
    assert found["it"] == pytest.approx(r2(torch.cat([train, val]), test, best))


def test_ranks():
    scores = torch.tensor([[3.0, 1, 2], [1, 2, 3], [2, 2, 2], [2, 2, 5]])
    assert ranks_of_first(scores).tolist() == [1, 3, 2, 2.5]
