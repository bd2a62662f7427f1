import pytest
import torch

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.protocols.semi_supervised import choose_labelled

LABELS = torch.tensor([0] * 100 + [1] * 30 + [2] * 3)
ROWS = torch.arange(133)
NAMES = [f"{row}.png" for row in range(133)]


@pytest.mark.parametrize(
    ("fraction", "counts"), [(1.0, [100, 30, 3]), (0.1, [10, 3, 1]), (0.01, [1, 1, 1])]
)
def test_every_class_has_its_fraction_and_at_least_one(fraction, counts):
    chosen = choose_labelled(ROWS, LABELS, fraction)
    assert torch.bincount(LABELS[chosen]).tolist() == counts
    assert chosen.tolist() == sorted(chosen.tolist())


def test_order_does_not_matter_and_the_seed_does():
    chosen = choose_labelled(ROWS, LABELS, 0.1, names=NAMES)
    order = torch.randperm(133)
    assert set(choose_labelled(ROWS[order], LABELS[order], 0.1, names=NAMES).tolist()) == set(
        chosen.tolist()
    )
    # The same images under other numbers.
    renumbered = [NAMES[row] for row in order.tolist()]
    moved = choose_labelled(ROWS, LABELS[order], 0.1, names=renumbered)
    assert {renumbered[row] for row in moved.tolist()} == {NAMES[row] for row in chosen.tolist()}
    assert choose_labelled(ROWS, LABELS, 0.1, names=NAMES, seed=1).tolist() != chosen.tolist()


def test_small_fractions_are_part_of_large_ones():
    small, large = (set(choose_labelled(ROWS, LABELS, s).tolist()) for s in (0.05, 0.2))
    assert small < large


def test_wrong_fraction():
    with pytest.raises(ConfigError, match=r"got 1\.5"):
        choose_labelled(ROWS, LABELS, 1.5)
