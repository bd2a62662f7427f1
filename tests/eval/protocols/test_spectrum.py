import pytest
import torch

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.base import Compute, EvalContext
from cassle_zoo.eval.protocols.spectrum import Spectrum
from cassle_zoo.eval.sources import FeatureSource
from cassle_zoo.features.extract import FeatureSet


def context(features, data):
    known = FeatureSet(features, [str(row) for row in range(len(features))])
    source = FeatureSource(name="file", argument=None, sha256=None, model=None, features=known)
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
