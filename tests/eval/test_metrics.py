import pytest
import torch
from sklearn.metrics import r2_score

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.metrics import accuracies, r2_scores


def test_accuracies_of_a_small_case():
    logits = torch.eye(7)[[0, 1, 2, 3]] - 0.1 * torch.arange(7)
    found = accuracies(logits, torch.tensor([0, 0, 0, 3]))
    assert found == {"top1": 0.5, "top5": 1.0, "mean_per_class": pytest.approx((1 / 3 + 1) / 2)}
    logits = torch.arange(7.0).expand(2, 7)
    assert accuracies(logits, torch.tensor([2, 1]))["top5"] == 0.5
    tied = accuracies(torch.zeros(2, 10), torch.tensor([0, 4]))
    assert (tied["top1"], tied["top5"]) == (0.5, 1.0), "the first, as in argmax"
    assert set(accuracies(logits[:, :5], torch.tensor([2, 1]))) == {"top1", "mean_per_class"}


def test_r2_agrees_with_sklearn():
    y, guess = torch.randn(50, 4), torch.randn(50, 4)
    expected = r2_score(y.numpy(), guess.numpy(), multioutput="raw_values")
    assert r2_scores(guess, y).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_r2_is_not_a_squared_correlation():
    targets = torch.tensor([[1.0], [2.0], [3.0]])
    assert float(r2_scores(targets, targets)) == 1
    assert float(r2_scores(torch.full((3, 1), 2.0), targets)) == 0
    # Perfectly correlated, and yet worse than the mean.
    assert float(r2_scores(targets + 2, targets)) == pytest.approx(1 - 12 / 2)


def test_r2_of_equal_targets_is_not_defined():
    targets = torch.tensor([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]])
    for names, name in ((None, "output 1"), ({1: "size"}, "size")):
        with pytest.raises(DataError, match=rf"not defined for {name}: all 3 values .* are equal"):
            r2_scores(targets, targets, names)
