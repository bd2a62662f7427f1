import pytest
import torch
from sklearn.decomposition import PCA

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.features.whitening import Whitening


@pytest.fixture
def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(60, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    return 3 * mixed + torch.arange(8)


@pytest.mark.parametrize("components", [1, 5, 8])
def test_agrees_with_sklearn(features: torch.Tensor, components: int) -> None:
    reference = PCA(components, whiten=True, svd_solver="full").fit(features[:40].double().numpy())
    expected = torch.from_numpy(reference.transform(features.double().numpy())).float()
    found = Whitening.fit(features[:40], components, chunk=7)(features, chunk=11)
    signs = (found * expected).sum(0).sign()  # a direction's sign is free
    torch.testing.assert_close(found * signs, expected, rtol=1e-5, atol=1e-5)


def test_what_it_was_fitted_to_becomes_uncorrelated(features: torch.Tensor) -> None:
    found = Whitening.fit(features, 8)(features)
    torch.testing.assert_close(found.T.cov(), torch.eye(8), atol=1e-5, rtol=0)


def test_bad_input_is_named(features: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="9 components: expected 1 to 8"):
        Whitening.fit(features, 9)
    with pytest.raises(ConfigError, match="0 components"):
        Whitening.fit(features, 0)
    with pytest.raises(DataError, match=r"needs 16 .*got 15.*at most 7 components"):
        Whitening.fit(features[:15], 8)
    with pytest.raises(DataError, match=r"4 directions.*5 components"):
        Whitening.fit(features[:, [0, 1, 2, 3, 3, 3]], 5)
    with pytest.raises(DataError, match="vary in 0 directions"):
        Whitening.fit(torch.ones(60, 8) / 3, 1)
    with pytest.raises(DataError, match="NaN"):
        Whitening.fit(features.log(), 2)
    with pytest.raises(DataError, match=r"expected \(N, 8\)"):
        Whitening.fit(features, 2)(features[:, 1:])
