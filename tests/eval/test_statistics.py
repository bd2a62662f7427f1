"""Intervals and tests against scipy and statsmodels, and their coverage and power by simulation."""

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval import statistics as st
from cassle_zoo.eval.metrics import mean_per_class, r2_scores


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def column(values: Tensor) -> Tensor:
    return values.double()[:, None]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=generator(seed))


def second_minus_first(means: Tensor) -> Tensor:
    return means[..., 1] - means[..., 0]


def bootstrap(
    columns: Tensor,
    statistic: st.Statistic = st.first_column,
    *,
    level: float = st.LEVEL,
    **settings: Any,
) -> st.Interval:
    [interval] = st.bootstrap(columns, [(statistic, level)], **settings)
    return interval


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 3), (5, 14), (14, 5), (60, 21), (700, 790)])
def test_mcnemar_is_statsmodels_and_scipys(counts: tuple[int, int]) -> None:
    b, c = counts
    table = [[7, b], [c, 9]]
    exact = reference_mcnemar(table, exact=True).pvalue if b + c else 1.0
    mid = exact - scipy.stats.binom.pmf(min(b, c), b + c, 0.5) if b + c else 1.0
    if b == c and b:
        mid = 1 - scipy.stats.binom.pmf(b, b + c, 0.5) / 2
    assert st.mcnemar(b, c) == pytest.approx(mid, rel=1e-9)


@pytest.mark.parametrize("kind", ["accuracy", "skewed"])
def test_bootstrap_is_scipys_given_its_resamples(kind: str) -> None:
    x = (random(80) < 0.85).double() if kind == "accuracy" else random(80).log().neg()
    own = bootstrap(column(x), generator=generator(1), draws=3000)
    resampled = st._Table(column(x), None).resampled_means(3000, generator(1))[:, 0]
    theirs = scipy.stats.bootstrap(
        (x.numpy(),), np.mean, n_resamples=0, method="BCa", vectorized=True,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=resampled.numpy()),
    )  # fmt: skip
    limits = theirs.confidence_interval
    assert (own.low, own.high) == pytest.approx((limits.low, limits.high), abs=1e-9)
    assert own.error == pytest.approx(float(theirs.standard_error), rel=1e-9)
    afresh = scipy.stats.bootstrap(
        (x.numpy(),), np.mean, n_resamples=20_000, method="BCa", random_state=0
    )
    assert own.error == pytest.approx(float(afresh.standard_error), rel=0.05)
    # Means of zeros and ones lie on a lattice of this step, so quantiles jump by it.
    step = 1 / len(x) if kind == "accuracy" else 0.15 * own.error
    assert own.low == pytest.approx(afresh.confidence_interval.low, abs=step)
    assert own.high == pytest.approx(afresh.confidence_interval.high, abs=step)


def test_bca_of_r2_is_scipys() -> None:
    targets = random(120, 2)
    predicted = targets + 0.3 * random(120, 2, seed=1)
    columns = st.r2_columns(predicted, targets)
    own = bootstrap(columns, st.r2_of_means, generator=generator(), draws=2000)
    assert own.value == pytest.approx(float(r2_scores(predicted, targets).mean()), rel=1e-12)

    def r2(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        picked = rows.astype(int)
        p, t = predicted.numpy()[picked], targets.numpy()[picked]
        total = np.square(t - t.mean(-2, keepdims=True)).sum(-2)
        return (1 - np.square(p - t).sum(-2) / total).mean(-1)

    resampled = st.r2_of_means(st._Table(columns, None).resampled_means(2000, generator()))
    theirs = scipy.stats.bootstrap(
        (np.arange(120),), r2, n_resamples=0, method="BCa", vectorized=True,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=resampled.numpy()),
    ).confidence_interval  # fmt: skip
    assert (own.low, own.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_r2_has_no_interval_if_targets_may_all_be_equal_in_a_resample() -> None:
    columns = st.r2_columns(random(3, 1), random(3, 1, seed=1))
    with pytest.raises(DataError, match="not defined on some resamples"):
        bootstrap(columns, st.r2_of_means, generator=generator())


def test_permutation_test_is_scipys() -> None:
    few = random(2, 10)
    exact = scipy.stats.permutation_test(
        tuple(few.numpy()), lambda x, y, axis: np.mean(y - x, axis=axis), n_resamples=np.inf,
        permutation_type="samples", vectorized=True,
    )  # fmt: skip
    own = st.permutation_test(column(few[0]), column(few[1]), generator=generator())
    assert own == pytest.approx(exact.pvalue, abs=1e-12)
    first = (random(300) < 0.6).double()
    second = torch.where(random(300, seed=1) < 0.2, (random(300, seed=2) < 0.75).double(), first)
    sampled = scipy.stats.permutation_test(
        (first.numpy(), second.numpy()), lambda x, y, axis: np.mean(y - x, axis=axis),
        n_resamples=20_000, permutation_type="samples", vectorized=True, random_state=0,
    )  # fmt: skip
    own = st.permutation_test(column(first), column(second), generator=generator(), draws=20_000)
    assert own == pytest.approx(sampled.pvalue, abs=0.01)
    b, c = int((first > second).sum()), int((first < second).sum())
    assert own == pytest.approx(reference_mcnemar([[0, b], [c, 0]], exact=True).pvalue, abs=0.01)


def test_p_of_what_no_random_swap_reaches_is_not_zero() -> None:
    first, second = torch.ones(40), torch.zeros(40)
    found = st.permutation_test(column(first), column(second), generator=generator(), draws=99)
    assert found == 1 / 100


def test_permutation_of_means_over_classes_by_definition() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    both = random(2, 7)

    def gap(pair: Tensor) -> float:
        return abs(mean_per_class(pair[0], labels) - mean_per_class(pair[1], labels))

    reached = 0
    for swaps in itertools.product([False, True], repeat=7):
        reached += gap(torch.where(torch.tensor(swaps), both.flip(0), both)) >= gap(both) - 1e-12
    found = st.permutation_test(
        column(both[0]), column(both[1]), generator=generator(), strata=labels
    )
    assert found == reached / 2**7


def test_permutations_tie_across_classes_of_different_sizes() -> None:
    """Three images of a class of nine count as much as one of a class of three."""
    labels = torch.tensor([0] * 3 + [1] * 9)
    first = torch.tensor([1, 0, 0] + [0] * 9)
    second = torch.tensor([0, 1, 0] + [1] * 3 + [0] * 6)
    weights = torch.where(labels == 0, 3, 1) * (second - first)
    swaps = itertools.product([-1, 1], repeat=12)
    reached = sum(abs(int(weights @ torch.tensor(own))) >= 3 for own in swaps)
    found = st.permutation_test(
        column(first), column(second), generator=generator(), strata=labels, draws=2**12
    )
    assert found == reached / 2**12


def test_interval_of_means_over_classes_is_of_values_that_they_can_have() -> None:
    labels = torch.arange(5).repeat_interleave(torch.tensor([21, 14, 10, 5, 3]))
    right = torch.ones(len(labels))
    right[-1] = 0
    assert bootstrap(column(right), generator=generator(), strata=labels).high <= 1 + 1e-12


Make = Callable[[torch.Generator], tuple[Tensor, Tensor | None]]


def coverage(make: Make, truth: float, statistic: st.Statistic = st.first_column) -> float:
    hits = 0
    for seed in range(1000):
        columns, strata = make(generator(seed))
        found = bootstrap(
            columns, statistic, generator=generator(seed + 1), strata=strata, draws=300
        )
        hits += found.low <= truth <= found.high
    return hits / 1000


def test_coverage_of_accuracies() -> None:
    def make(draw: torch.Generator) -> tuple[Tensor, None]:
        return column(torch.rand(200, generator=draw) < 0.8), None

    assert 0.93 <= coverage(make, 0.8) <= 0.97


def test_coverage_of_mean_per_class() -> None:
    sizes, right = (150, 40, 25, 12), (0.9, 0.7, 0.6, 0.5)
    strata = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    chance = torch.tensor(right)[strata]

    def make(draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return column(torch.rand(len(strata), generator=draw) < chance), strata

    assert 0.93 <= coverage(make, sum(right) / 4) <= 0.97


def test_coverage_of_paired_differences() -> None:
    def make(draw: torch.Generator) -> tuple[Tensor, None]:
        shared, own = torch.rand(2, 200, generator=draw)
        first = shared < 0.7
        second = torch.where(own < 0.2, torch.rand(200, generator=draw) < 0.9, first)
        return torch.stack([first, second], dim=1).double(), None

    found = coverage(make, 0.2 * (0.9 - 0.7), statistic=second_minus_first)
    assert 0.93 <= found <= 0.97


def test_the_detectable_difference_is_found_in_four_of_five() -> None:
    n, disagree = 400, 0.15
    for truth in (0.0, st.detectable_difference(math.sqrt(disagree / n))):
        only = torch.tensor([(disagree - truth) / 2, (disagree + truth) / 2, 1 - disagree])
        counts = torch.distributions.Multinomial(n, only)
        torch.manual_seed(0)
        tables = counts.sample((2000,)).int().tolist()
        found = sum(st.mcnemar(b, c) < 0.05 for b, c, _ in tables) / 2000
        assert found == pytest.approx(0.8 if truth else 0.05, abs=0.035)
    assert st.detectable_difference(0.1) == pytest.approx(0.1 * (1.959964 + 0.841621), rel=1e-5)


def test_means_over_classes() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    right = torch.tensor([1.0, 1, 1, 0, 0, 1])
    found = bootstrap(column(right), generator=generator(), strata=labels)
    assert found.value == pytest.approx(mean_per_class(right.double(), labels))
    # The variance is that of the textbook: the mean over classes of s^2 / n.
    error = math.sqrt(float(right[:4].var() / 4 + right[4:].var() / 2)) / 2
    assert found.error == pytest.approx(error, rel=0.05)
    rest = [torch.arange(6) != image for image in range(6)]
    without = torch.tensor([mean_per_class(right[r].double(), labels[r]) for r in rest])
    influences = st._Table(column(right), labels).influences(st.first_column)
    torch.testing.assert_close(influences.float(), without.mean() - without)
    with pytest.raises(DataError, match="2 of 3 classes have one image"):
        alone = torch.tensor([0, 0, 0, 0, 1, 2])
        bootstrap(column(right), generator=generator(), strata=alone)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101])
def test_quantiles_of_t_are_scipys(freedom: int) -> None:
    for probability in (0.6, 0.975, 0.999):
        expected = scipy.stats.t.ppf(probability, freedom)
        assert st.t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9)


def test_runs_have_t_intervals() -> None:
    first, second = [0.61, 0.64, 0.6], [0.7, 0.66, 0.69, 0.72]
    own = st.mean_of_runs(first)
    expected = scipy.stats.t.interval(0.95, 2, loc=np.mean(first), scale=scipy.stats.sem(first))
    assert (own.low, own.high) == pytest.approx(expected)
    assert st.mean_of_runs(first, level=0.5).low == pytest.approx(
        scipy.stats.t.interval(0.5, 2, loc=np.mean(first), scale=scipy.stats.sem(first))[0]
    )
    welch = scipy.stats.ttest_ind(second, first, equal_var=False)
    error = math.hypot(scipy.stats.sem(first), scipy.stats.sem(second))
    found = st.difference_of_runs(first, second, level=0.9)
    expected = scipy.stats.t.interval(
        0.9, math.floor(welch.df), loc=np.mean(second) - np.mean(first), scale=error
    )
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.excludes_zero
    with pytest.raises(DataError, match="needs two of them, got 1"):
        st.mean_of_runs([0.5])


def test_equal_models_do_not_differ() -> None:
    same = column(random(50) < 0.5)
    both = torch.cat([same, same], dim=1)
    found = bootstrap(both, second_minus_first, generator=generator())
    assert (found.low, found.value, found.high) == (0, 0, 0)
    assert not found.excludes_zero
    assert st.permutation_test(same, same, generator=generator()) == 1


def test_the_same_generator_gives_the_same_interval_in_any_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = column(random(70))
    whole = bootstrap(x, generator=generator())
    monkeypatch.setattr(st, "_RESAMPLED", 70 * 13)
    assert bootstrap(x, generator=generator()) == whole


def test_bad_input_is_named() -> None:
    x = column(random(5))
    with pytest.raises(DataError, match="two images, got 1"):
        bootstrap(x[:1], generator=generator())
    with pytest.raises(DataError, match="NaN"):
        bootstrap(x * torch.nan, generator=generator())
    with pytest.raises(DataError, match=r"\(5,\), expected \(N, M\)"):
        bootstrap(x[:, 0], generator=generator())
    with pytest.raises(ConfigError, match=r"level must be between 0 and 1, got 1\.5"):
        bootstrap(x, generator=generator(), level=1.5)
    with pytest.raises(ConfigError, match="draws must be at least 1, got 0"):
        st.permutation_test(x, x, generator=generator(), draws=0)
    with pytest.raises(ConfigError, match="draws must be at least 1, got 0"):
        bootstrap(x, generator=generator(), draws=0)
    with pytest.raises(DataError, match=r"one shape, got \(5, 1\) and \(4, 1\)"):
        st.permutation_test(x, x[:4], generator=generator())
