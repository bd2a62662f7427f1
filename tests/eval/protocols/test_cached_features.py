"""What is cached of a network belongs to it alone."""

import dataclasses

import pytest
from torch import nn

from cassle_zoo.eval.protocols.equivariance import Equivariance
from cassle_zoo.eval.protocols.spectrum import Spectrum


class Other(nn.Module):
    """Another network with the weights of the first."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images).abs()


def with_source(context, **changes):
    context.source = dataclasses.replace(context.source, **changes)
    return context


EVALUATORS = (Spectrum(components=(1, 3), figures=False), Equivariance(candidates=2, figures=False))


@pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda e: type(e).__name__)
def test_networks_of_equal_weights_share_nothing(make_context, tmp_path, evaluator):
    first = make_context()
    expected = evaluator.evaluate(first).metrics
    cached = len(list(tmp_path.iterdir()))
    assert cached == 1
    other = Other(first.source.model)
    same = with_source(make_context(), model=other)
    assert evaluator.evaluate(same).metrics == expected  # what is cached is used
    changed = with_source(make_context(), model=other, network="other")
    assert evaluator.evaluate(changed).metrics != expected


@pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda e: type(e).__name__)
def test_nothing_is_cached_if_the_source_forbids_it(make_context, tmp_path, evaluator):
    first = with_source(make_context(), cacheable=False)
    expected = evaluator.evaluate(first).metrics
    assert not list(tmp_path.iterdir())
    other = with_source(make_context(), cacheable=False, model=Other(first.source.model))
    assert evaluator.evaluate(other).metrics != expected


def test_other_software_extracts_anew(make_context, tmp_path, monkeypatch):
    evaluator = EVALUATORS[0]
    evaluator.evaluate(make_context())
    monkeypatch.setattr("cassle_zoo.eval.base.software_versions", lambda: {"timm": "9.9"})
    evaluator.evaluate(make_context())
    assert len(list(tmp_path.iterdir())) == 2
