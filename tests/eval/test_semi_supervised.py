import pytest
import torch

from cassle_zoo.errors import ConfigError
from cassle_zoo.eval.semi_supervised import labelled_subset, mean_and_deviation


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_same_share_of_every_class_but_at_least_one():
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 4 + [3] * 50)
    rows = torch.arange(144)
    subset = labelled_subset(labels, rows, 0.1, seeded())
    assert labels[subset].bincount(minlength=4).tolist() == [10, 4, 1, 0]
    assert set(subset.tolist()) <= set(rows.tolist())
    assert torch.equal(subset, subset.unique())


def test_seed_decides():
    labels = torch.arange(200) % 2
    rows = torch.arange(200)
    first = labelled_subset(labels, rows, 0.1, seeded())
    assert torch.equal(labelled_subset(labels, rows, 0.1, seeded()), first)
    assert not torch.equal(labelled_subset(labels, rows, 0.1, seeded(1)), first)


def test_edges():
    labels = torch.arange(6) % 2
    assert labelled_subset(labels, torch.arange(6), 1, seeded()).tolist() == list(range(6))
    assert labelled_subset(labels, torch.arange(0), 0.5, seeded()).tolist() == []
    for fraction in (0, 1.5):
        with pytest.raises(ConfigError, match="share of labels"):
            labelled_subset(labels, torch.arange(6), fraction, seeded())


def test_mean_and_deviation():
    assert mean_and_deviation([0.25]) == (0.25, 0)
    mean, deviation = mean_and_deviation([1.0, 3.0])
    assert (mean, deviation) == (2, pytest.approx(2**0.5))
