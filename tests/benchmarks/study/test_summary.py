import dataclasses

import numpy as np
import pytest
from scipy import stats

from benchmarks.study.metrics import COURSE
from benchmarks.study.records import Record
from benchmarks.study.summary import (
    Difference,
    course_table,
    holm,
    number_table,
    paired,
    show_difference,
    show_spread,
    spread,
)


def test_spread_is_that_of_a_sample() -> None:
    sample = [70.5, 69.0, 72.25]
    found = spread(sample)
    assert found.mean == pytest.approx(np.mean(sample))
    assert found.std == pytest.approx(np.std(sample, ddof=1))
    assert show_spread(found) == "70.6 ± 1.6"
    assert show_spread(spread([70.5])) == "70.5"
    assert show_spread(spread([-0.01])) == "0.0"


def test_a_course_is_in_the_order_of_epochs_with_seeds_together(
    record: Record, with_course: Record
) -> None:
    one, another = with_course, dataclasses.replace(with_course, arm="b_simclr")
    later = dataclasses.replace(one, seed=1, course={"5": one.course["10"]})
    text = course_table([record, one, later, another], COURSE[:1])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert rows[0] == ["arm", "epoch", "seeds", "subcategory k-NN"]
    assert rows[2:] == [
        ["a_simclr", "5", "2", "25.0 ± 7.1"],
        ["a_simclr", "10", "1", "30.0"],
        ["b_simclr", "5", "1", "20.0"],
        ["b_simclr", "10", "1", "30.0"],
    ]


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_paired_interval_is_that_of_the_paired_t_test(count: int) -> None:
    rng = np.random.default_rng(count)
    first, second = rng.normal(70, 2, count), rng.normal(68, 2, count)
    # Seeds in different orders, and one without a partner.
    found = paired(
        dict(enumerate(first)), {99: 0.0} | dict(reversed(list(enumerate(second.tolist()))))
    )
    assert found is not None
    assert found.half_width is not None
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(first - second))
    assert found.mean - found.half_width == pytest.approx(interval.low)
    assert found.mean + found.half_width == pytest.approx(interval.high)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.sign != 0) == (expected.pvalue < 0.05)


def test_few_pairs() -> None:
    assert paired({0: 1.0}, {1: 1.0}) is None
    single = paired({0: 3.0}, {0: 1.0})
    assert single is not None
    assert (single.half_width, single.sign, show_difference(single)) == (None, 0, "+2.0")


def test_differences_that_exclude_zero_are_bold() -> None:
    assert show_difference(paired({0: 3.0, 1: 3.2}, {0: 1.0, 1: 1.0})) == (  # type: ignore[arg-type]
        "**+2.1 [+0.8, +3.4]**"
    )
    assert paired({0: 1.0, 1: 1.0}, {0: 3.0, 1: 3.2}).sign == -1  # type: ignore[union-attr]
    wide = paired({0: 3.0, 1: 0.0}, {0: 1.0, 1: 1.0})
    assert wide is not None
    assert wide.sign == 0
    assert "**" not in show_difference(wide)


def test_columns_of_numbers_are_aligned_right() -> None:
    table = number_table(["arm", "a"], [["x", "1"], ["y", "2"]])
    assert table.splitlines() == ["| arm | a |", "| --- | ---: |", "| x | 1 |", "| y | 2 |"]


def test_equal_differences_prove_nothing() -> None:
    # One more query of 259 is right with either seed.
    alike = paired({0: 2000 / 259, 1: 3000 / 259}, {0: 1900 / 259, 1: 2900 / 259})
    assert alike is not None
    assert (alike.half_width, alike.p, alike.sign) == (None, None, 0)
    assert alike.mean == pytest.approx(100 / 259)
    assert holm([alike]) == [0]
    same = paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert same is not None
    assert (same.mean, same.p, same.sign) == (0, None, 0)


def test_holm_corrects_for_the_number_of_tests() -> None:
    def made(p: float | None, mean: float = 1.0) -> Difference:
        return Difference(mean=mean, half_width=None if p is None else 1.0, p=p)

    # Bounds from the smallest p on: 0.05/4, 0.05/3, 0.05/2, 0.05.
    family = [made(0.06), None, made(0.012, -2.0), made(None), made(0.016), made(0.001)]
    assert holm(family) == [0, 0, -1, 0, 1, 1]
    assert holm([made(0.03), made(0.014), made(0.04)]) == [0, 1, 0]
    # Nothing after the first that fails is accepted.
    assert holm([made(0.02), made(0.04)]) == [1, 1]
    assert holm([made(0.03), made(0.04)]) == [0, 0]
    assert holm([]) == []
