import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval import sensitivity
from cassle_zoo.eval.sensitivity import infonce

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "d_sensitivity.npz")
FIRST, SECOND = (torch.from_numpy(GOLDEN[f"case0/ft_{view}"]) for view in (1, 2))


@pytest.mark.parametrize(
    "measure", ["infonce", "self_distill", "cca", "mean_positive_cosine", "mean_negative_cosine"]
)
def test_agrees_with_the_papers_code(measure):
    function = getattr(sensitivity, measure)
    assert function(FIRST, SECOND) == pytest.approx(float(GOLDEN[f"case0/{measure}_f64"]), rel=1e-9)
    single = function(FIRST.float(), SECOND.float())
    assert single == pytest.approx(float(GOLDEN[f"case0/{measure}_f32"]), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_infonce_of_orthogonal_images(temperature):
    one = torch.eye(7) * 3
    expected = 2 * temperature * math.log(1 + 6 * math.exp(-1 / temperature))
    assert infonce(one, one * 2, temperature=temperature) == pytest.approx(expected, rel=1e-12)


def test_infonce_does_not_depend_on_order_or_chunks():
    expected = infonce(FIRST, SECOND)
    order = torch.randperm(len(FIRST))
    assert infonce(FIRST[order], SECOND[order]) == pytest.approx(expected, rel=1e-12)
    assert infonce(FIRST, SECOND, chunk=7) == pytest.approx(expected, rel=1e-12)
    assert infonce(FIRST, SECOND[order]) > expected


def test_wrong_input():
    with pytest.raises(DataError, match=r"\(64, 128\) and \(63, 128\)"):
        infonce(FIRST, SECOND[1:])
    with pytest.raises(DataError, match="NaN"):
        sensitivity.cca(FIRST, SECOND * float("nan"))
    with pytest.raises(ConfigError, match="temperature=0"):
        infonce(FIRST, SECOND, temperature=0)
