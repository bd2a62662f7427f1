import random

import numpy as np
import torch

from cassle_zoo.common.seeds import Batches, seed_of, seeded


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


def test_batches_are_shuffled_by_seed_and_cover_an_epoch():
    rows = torch.arange(10, 20)
    batches = Batches(rows, 5, 3, seed=0)
    drawn = list(batches)
    assert len(drawn) == len(batches) == 6
    for epoch in range(3):
        part = [draw for batch in drawn[2 * epoch : 2 * epoch + 2] for draw in batch]
        assert {number for number, _ in part} == {epoch}
        assert sorted(index for _, index in part) == rows.tolist()
    assert list(Batches(rows, 5, 3, seed=0)) == drawn
    assert list(Batches(rows, 5, 3, seed=1)) != drawn
    assert [index for _, index in drawn[0]] != [index for _, index in drawn[2]]


def test_fewer_images_than_a_batch():
    assert [len(batch) for batch in Batches(torch.arange(3), 64, 2, seed=0)] == [3, 3]
