import random

import numpy as np
import torch

from cassle_zoo.common.seeds import seed_of, seeded


def draw():
    return random.random(), np.random.random(), torch.rand(3).tolist()


def test_draws_depend_on_the_seed_and_leave_no_trace():
    with seeded(3):
        expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    undisturbed = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with seeded(3):
        assert draw() == expected
    assert draw() == undisturbed


def test_seeds_of_parts():
    assert seed_of(0, 12, 3) == seed_of(0, 12, 3)
    assert len({seed_of(0, 12, 3), seed_of(0, 1, 23), seed_of(0, 123), seed_of(1, 12, 3)}) == 4
    assert seed_of("caf\udce9") != seed_of("caf\udce8")
