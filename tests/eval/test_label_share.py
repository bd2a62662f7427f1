import pytest
import torch

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.label_share import label_share

LABELS = torch.tensor([0] * 100 + [1] * 30 + [2] * 3)
ROWS = torch.arange(133)
NAMES = [f"{row}.png" for row in range(133)]


@pytest.mark.parametrize(
    ("share", "counts"), [(1.0, [100, 30, 3]), (0.1, [10, 3, 1]), (0.01, [1, 1, 1])]
)
def test_every_class_has_its_share_and_at_least_one(share, counts):
    chosen = label_share(ROWS, LABELS, share)
    assert torch.bincount(LABELS[chosen]).tolist() == counts
    assert chosen.tolist() == sorted(chosen.tolist())


def test_order_does_not_matter_and_the_seed_does():
    chosen = label_share(ROWS, LABELS, 0.1, names=NAMES)
    order = torch.randperm(133)
    assert set(label_share(ROWS[order], LABELS[order], 0.1, names=NAMES).tolist()) == set(
        chosen.tolist()
    )
    # The same images under other numbers.
    renumbered = [NAMES[row] for row in order.tolist()]
    moved = label_share(ROWS, LABELS[order], 0.1, names=renumbered)
    assert {renumbered[row] for row in moved.tolist()} == {NAMES[row] for row in chosen.tolist()}
    assert label_share(ROWS, LABELS, 0.1, names=NAMES, seed=1).tolist() != chosen.tolist()


def test_small_shares_are_part_of_large_ones():
    small, large = (set(label_share(ROWS, LABELS, s).tolist()) for s in (0.05, 0.2))
    assert small < large


def test_wrong_share():
    with pytest.raises(ConfigError, match=r"got 1\.5"):
        label_share(ROWS, LABELS, 1.5)
