import numpy as np
import pytest
import torch

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import Compute, EvalContext
from cassle_zoo.eval.protocols.spectrum import (
    Spectrum,
    alpha_req,
    components_for,
    covariance_spectrum,
    explained_variance,
    rankme,
)
from cassle_zoo.eval.sources import FeatureSource
from cassle_zoo.features import whitening
from cassle_zoo.features.extract import FeatureSet


def context(features, data):
    known = FeatureSet(features, [str(row) for row in range(len(features))])
    source = FeatureSource(name="file", sha256=None, model=None, features=known)
    return EvalContext(source, data, Compute())


def test_spectrum_of_a_feature_file(data):
    features = torch.randn(100, 60) * torch.arange(1, 61) ** -0.5
    outcome = Spectrum().evaluate(context(features, data))
    values = outcome.metrics["spectrum"]
    names = ["alpha_req", "rankme", "components_90", "components_95", "components_99"]
    assert list(values) == names
    assert values["components_90"] < values["components_95"] < values["components_99"] <= 60
    assert sum(outcome.series["explained_variance"]) == pytest.approx(1)
    assert outcome.files["spectrum.png"].startswith(b"\x89PNG")
    assert Spectrum(figures=False).evaluate(context(features, data)).files == {}
    assert "100 x 60" in outcome.protocol["spectrum"]
    with pytest.raises(DataError, match="only 60 components"):
        Spectrum(components=(5, 70)).evaluate(context(features, data))


def features_with(variances, count=300):
    """Features whose covariance has exactly these eigenvalues."""
    noise = torch.randn(count, len(variances), dtype=torch.float64)
    directions = torch.linalg.qr(noise - noise.mean(0)).Q
    rotation = torch.linalg.qr(torch.randn(len(variances), len(variances), dtype=torch.float64)).Q
    scale = (torch.tensor(variances, dtype=torch.float64) * (count - 1)).sqrt()
    return (directions * scale) @ rotation + 5


@pytest.mark.parametrize("shape", [(200, 60), (40, 60)])
def test_agrees_with_numpy(shape, monkeypatch):
    monkeypatch.setattr(whitening, "_CHUNK", 17)
    features = torch.randn(shape) * torch.linspace(0.1, 4, shape[1]) + 3
    x = features.double().numpy()
    values = covariance_spectrum(features).numpy()
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)[: len(values)]
    np.testing.assert_allclose(values, singular**2 / (len(x) - 1), rtol=1e-9)
    assert len(values) == min(shape[0] - 1, shape[1])
    fraction = np.cumsum(values) / values.sum()
    assert components_for(torch.from_numpy(values), 0.9) == np.searchsorted(fraction, 0.9) + 1
    slope = np.polyfit(np.log(np.arange(5, 36)), np.log(values[4:35]), 1)[0]
    found = alpha_req(torch.from_numpy(values), first=5, last=35)
    assert found == pytest.approx(-slope, rel=1e-9)
    singular = np.linalg.svd(x, compute_uv=False)
    p = singular / singular.sum() + 1e-7
    assert rankme(features) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-7)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_a_power_law_is_found(alpha):
    variances = [4 * index**-alpha for index in range(1, 61)]
    values = covariance_spectrum(features_with(variances))
    assert values.tolist() == pytest.approx(variances, rel=1e-9)
    assert alpha_req(values) == pytest.approx(alpha, abs=1e-9)


def test_known_ranks():
    assert rankme(torch.eye(24).repeat(5, 1)) == pytest.approx(24, rel=1e-4)
    assert rankme(torch.ones(50, 8)) == pytest.approx(1, rel=1e-4)
    values = covariance_spectrum(features_with([6, 3, 1, 0, 0]))
    assert explained_variance(values).tolist() == pytest.approx([0.6, 0.3, 0.1, 0, 0], abs=1e-9)
    assert [components_for(values, fraction) for fraction in (0.5, 0.8, 0.95)] == [1, 2, 3]


def test_what_cannot_be_measured():
    with pytest.raises(DataError, match="only 3 components"):
        alpha_req(covariance_spectrum(features_with([6, 3, 1, 0, 0])))
    with pytest.raises(ConfigError, match="components 50 to 5"):
        alpha_req(torch.ones(60), first=50, last=5)
    with pytest.raises(ConfigError, match="components 50 to 5"):
        Spectrum(components=(50, 5))
    with pytest.raises(DataError, match="all features are equal"):
        covariance_spectrum(torch.full((9, 4), 0.3))
    with pytest.raises(DataError, match="all features are zero"):
        rankme(torch.zeros(9, 4))
    for function in (covariance_spectrum, rankme):
        with pytest.raises(DataError, match="NaN"):
            function(torch.full((9, 4), float("nan")))
        with pytest.raises(DataError, match=r"\(1, 4\)"):
            function(torch.zeros(1, 4))
