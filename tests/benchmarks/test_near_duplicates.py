from pathlib import Path

import pytest
import torch

from benchmarks import near_duplicates
from benchmarks.near_duplicates import at_threshold, best_threshold, judge
from cassle_zoo.common.files import read_json

ROOT = Path(__file__).parents[2]


def test_the_best_threshold_is_that_of_the_largest_f1() -> None:
    cosines = torch.tensor([0.2, 0.9, 0.7, 0.8, 0.4])
    right = torch.tensor([False, True, True, False, True])
    # F1 by how many are found: 2/4, 2/5, 4/6, 6/7 (down to 0.4), 6/8.
    assert best_threshold(cosines, right) == pytest.approx((0.4, 3 / 4, 1.0))
    assert at_threshold(cosines, right, 0.75) == pytest.approx((0.75, 1 / 2, 1 / 3))
    assert at_threshold(cosines, right, 0.95) == (0.95, 1.0, 0.0)


def test_equal_cosines_are_found_together() -> None:
    cosines = torch.tensor([0.9, 0.9, 0.9, 0.1])
    right = torch.tensor([True, False, False, True])
    assert best_threshold(cosines, right).threshold == pytest.approx(0.1)


def test_the_threshold_is_chosen_on_one_half_and_judged_on_the_other() -> None:
    images = torch.eye(6)
    own = torch.tensor([1, 2, 4, 5])
    copies = images[own].clone()
    copies[3] = torch.tensor([0.0, 0, 0, 1, 0, 0])  # of image 5, but like image 3; it is judged
    assert judge(copies, images, own) == pytest.approx(
        {"threshold": 1.0, "precision": 0.5, "recall": 0.5, "first": 0.5}
    )
    copies[3], copies[2] = images[5], copies[3]  # now a chosen one is: only its recall suffers
    found = judge(copies, images, own)
    assert (found["precision"], found["recall"], found["first"]) == (1, 1, 1)


def test_the_document_shows_what_was_recorded() -> None:
    record = read_json(Path(near_duplicates.__file__).with_suffix(".json"))
    assert near_duplicates.table(record) in (ROOT / "docs" / "features.md").read_text("utf-8")
