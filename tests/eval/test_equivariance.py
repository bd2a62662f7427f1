import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.equivariance import fit_ridge, probe, r2_scores, ranks_of_first


@pytest.mark.parametrize("width", [6, 90])  # fewer and more than the samples
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 30.0])
def test_ridge_agrees_with_sklearn(width, penalty):
    x = torch.randn(60, width) * torch.linspace(0.1, 9, width) + 2
    x[:, 2] = 4  # constant
    y = x[:, :3] * torch.tensor([1.0, -2.0, 0.5]) + torch.randn(60, 3)
    standardised = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    standardised[:, 2] = 0
    reference = Ridge(penalty * 60).fit(standardised.numpy(), y.double().numpy())
    found = fit_ridge(x, y).predict(x, penalty)
    np.testing.assert_allclose(found, reference.predict(standardised.numpy()), atol=1e-8)


def test_r2():
    y, guess = torch.randn(50, 4), torch.randn(50, 4)
    expected = r2_score(y.numpy(), guess.numpy(), multioutput="raw_values")
    assert r2_scores(y, guess).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    with pytest.raises(DataError, match="same for all"):
        r2_scores(torch.zeros(5, 1), torch.zeros(5, 1))


def test_probe_finds_what_is_there():
    x = torch.randn(400, 20)
    targets = torch.cat([x[:, :2] @ torch.randn(2, 2), torch.randn(400, 1)], dim=1)
    parts = torch.arange(400).split([240, 60, 100])
    splits = dict(zip(("train", "val", "test"), parts, strict=True))
    scores = probe(x, targets, splits, {"known": slice(0, 2), "noise": slice(2, 3)})
    assert scores["known"] > 0.999
    assert abs(scores["noise"]) < 0.15
    with pytest.raises(DataError, match="NaN"):
        probe(x * float("nan"), targets, splits, {"known": slice(0, 2)})
    with pytest.raises(DataError, match="400 features and 399"):
        fit_ridge(x, targets[1:])


def test_ranks():
    scores = torch.tensor([[3.0, 1, 2], [1, 2, 3], [2, 2, 2], [2, 2, 5]])
    assert ranks_of_first(scores).tolist() == [1, 3, 2, 2.5]
