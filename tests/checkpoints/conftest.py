"""Builders of the checkpoints of other codes."""

from collections.abc import Callable
from typing import Any

import pytest
from foreign_checkpoints import official_checkpoint, randomise
from torch import nn


@pytest.fixture
def official_case() -> Callable[[str], dict[str, Any]]:
    """Return the checkpoint of a case of the golden key list."""
    return official_checkpoint


@pytest.fixture
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Return a function that randomises normalisations, so that they hide no branch."""
    return randomise
