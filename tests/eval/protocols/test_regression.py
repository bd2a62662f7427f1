import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.protocols.linear_probe import L2_GRID, Samples
from cassle_zoo.eval.protocols.regression import linear_regression


def make_parts(width=20, outputs=3, counts=(60, 30, 40), noise=0.5):
    generator = torch.Generator().manual_seed(0)
    mapping = torch.randn(width, outputs, generator=generator)
    parts = []
    for count in counts:
        features = torch.randn(count, width, generator=generator) * 3 + 1
        error = noise * torch.randn(count, outputs, generator=generator)
        parts.append(Samples(features=features, targets=features @ mapping + 5 + error))
    return parts


@pytest.mark.parametrize("width", [20, 200])
@pytest.mark.parametrize("noise", [0.5, 20.0])
def test_agrees_with_sklearn(width, noise):
    train, val, test = make_parts(width=width, noise=noise)
    found = linear_regression(train, val, test)
    scores = []
    for l2 in L2_GRID:
        model = Ridge(alpha=l2, solver="svd")
        model.fit(train.features.double().numpy(), train.targets.double().numpy())
        predicted = model.predict(val.features.double().numpy())
        scores.append(r2_score(val.targets.double().numpy(), predicted))
    torch.testing.assert_close(list(found.validation_r2), scores, rtol=1e-6, atol=1e-8)
    assert found.best_l2 == L2_GRID[scores.index(max(scores))]
    model = Ridge(alpha=found.best_l2, solver="svd")
    model.fit(
        torch.cat([train.features, val.features]).double().numpy(),
        torch.cat([train.targets, val.targets]).double().numpy(),
    )
    predicted = model.predict(test.features.double().numpy())
    truth = test.targets.double().numpy()
    assert found.r2 == pytest.approx(r2_score(truth, predicted))
    assert found.mean_absolute_error == pytest.approx(mean_absolute_error(truth, predicted))
    assert len(found.r2_of_outputs) == 3


def test_order_and_repeated_features_do_not_matter():
    train, val, test = make_parts()
    expected = linear_regression(train, val, test)
    order = torch.randperm(60)
    shuffled = Samples(features=train.features[order], targets=train.targets[order])
    again = linear_regression(shuffled, val, test)
    assert again.best_l2 == expected.best_l2
    assert again.r2 == pytest.approx(expected.r2, abs=1e-9)
    doubled = [Samples(features=p.features.repeat(1, 2), targets=p.targets) for p in (train, val)]
    wide = Samples(features=test.features.repeat(1, 2), targets=test.targets)
    assert linear_regression(*doubled, wide).r2 == pytest.approx(expected.r2, abs=1e-2)


def test_noise_is_not_predicted():
    train, val, test = make_parts()
    for part in (train, val, test):
        part.targets.normal_(generator=torch.Generator().manual_seed(len(part.targets)))
    assert linear_regression(train, val, test).r2 < 0.2


def test_bad_data():
    train, val, test = make_parts()
    with pytest.raises(DataError, match=r"validation features \(30, 19\)"):
        linear_regression(train, Samples(features=val.features[:, 1:], targets=val.targets), test)
    with pytest.raises(DataError, match="no test samples"):
        linear_regression(train, val, Samples(features=test.features[:0], targets=test.targets[:0]))
    constant = Samples(features=test.features, targets=test.targets.clone())
    constant.targets[:, 1] = 7
    with pytest.raises(DataError, match=r"not defined for output 1: all 40 values .* are equal"):
        linear_regression(train, val, constant)
    train.features[3, 2] = float("inf")
    with pytest.raises(DataError, match="1 of 60 training feature vectors are NaN"):
        linear_regression(train, val, test)
