import pytest
from small_models import make_model
from torch import nn


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A small network in evaluation mode."""
    return make_model().eval()
