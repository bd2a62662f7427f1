from dataclasses import replace

import pytest
import torch

from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.augmented import views
from cassle_zoo.eval.protocols.equivariance import Equivariance, split_images

QUICK = Equivariance(candidates=10, figures=False)


def test_metrics(make_subject):
    context = make_subject()
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


def test_batches_and_the_cache_do_not_matter(make_subject):
    expected = QUICK.evaluate(make_subject()).metrics
    assert QUICK.evaluate(make_subject()).metrics == expected
    for settings in ({"batch_size": 7, "no_cache": True}, {"batch_size": 64, "no_cache": True}):
        found = QUICK.evaluate(make_subject(**settings)).metrics
        for name, values in found.items():
            assert values == pytest.approx(expected[name], abs=1e-5)
    assert QUICK.evaluate(make_subject(seed=1)).metrics != expected


def test_sources_without_conditioned_projector(make_subject):
    for conditioning in ("none", None):
        assert "omega" not in QUICK.evaluate(make_subject(conditioning)).metrics


def test_split_follows_the_tasks(data):
    indices = views.draw_images(torch.arange(100), 80, seed=0)
    splits = split_images(data, indices)
    assert (indices[splits["test"]] >= 80).all()
    assert (indices[torch.cat([splits["train"], splits["val"]])] < 80).all()
    assert sorted(torch.cat([*splits.values()]).tolist()) == list(range(80))
    untested = replace(data, tasks=())
    splits = split_images(untested, indices)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [52, 12, 16]
    with pytest.raises(DataError, match="'test': 4"):
        split_images(untested, indices[:20])


def test_wrong_settings(make_subject):
    with pytest.raises(ConfigError, match="candidates must be"):
        replace(QUICK, candidates=1).evaluate(make_subject())
    with pytest.raises(DataError, match="do not give 50 candidates"):
        replace(QUICK, candidates=50).evaluate(make_subject())


def test_figure(make_subject):
    outcome = replace(QUICK, figures=True).evaluate(make_subject(None))
    assert outcome.files["r2.png"].startswith(b"\x89PNG")
