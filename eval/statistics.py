"""Intervals, paired tests and detectable differences of metrics, as functions of per-image values.

Nearly every metric here is a smooth function of column means over images: an accuracy is the mean
of zeros and ones, R² a function of the means of squared errors, targets and squared targets. So
the functions take a table of *columns* (N, M), a row per image, and a `statistic` that maps column
means (..., M) to values (...). Two models on the same images are the columns of both side by side.

All intervals and tests take the images as independent draws, and the fitted model as given.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError

DRAWS = 4000
LEVEL = 0.95
POWER = 0.8

Statistic = Callable[[Tensor], Tensor]

_RESAMPLED = 2**23  # indices in memory at a time
_TIED = 1e-12  # relative: sums of the same numbers in another order
_EQUAL = 1e-9  # width of an interval that is one value, but for rounding
_FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        value: The estimate.
        low: Lower limit.
        high: Upper limit.
        error: Standard error of the estimate.
    """

    value: float
    low: float
    high: float
    error: float

    @property
    def is_constant(self) -> bool:
        """Whether all resamples gave the same value, but for rounding."""
        return self.high - self.low <= _EQUAL

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def first_column(means: Tensor) -> Tensor:
    """Return the mean of the only column, as the statistic of accuracies and the like."""
    return means[..., 0]


def r2_of_means(means: Tensor) -> Tensor:
    """Return the mean over outputs of R², from the column means of :func:`r2_columns`.

    NaN if the targets of an output are all equal, as they can be in a resample.
    """
    squared_error, target, squared_target = means.unflatten(-1, (3, -1)).unbind(-2)
    variance = squared_target - target.square()
    # Equal targets leave only rounding error.
    variance = variance.masked_fill(variance <= _TIED * squared_target, torch.nan)
    found: Tensor = (1 - squared_error / variance).mean(-1)
    return found


def r2_columns(predicted: Tensor, targets: Tensor) -> Tensor:
    """Return the columns (N, 3 K) of which R² of K outputs is a function.

    Args:
        predicted: (N, K).
        targets: (N, K); they are centred first, since their squares are subtracted.
    """
    predicted, targets = predicted.double(), targets.double()
    centred = targets - targets.mean(0)
    return torch.cat([(predicted - targets).square(), centred, centred.square()], dim=1)


def bootstrap(
    columns: Tensor,
    statistics: Sequence[tuple[Statistic, float]],
    *,
    generator: torch.Generator,
    strata: Tensor | None = None,
    draws: int = DRAWS,
) -> list[Interval]:
    """Return bootstrap intervals of statistics of column means, all from the same resamples.

    They are corrected for bias and skewness (BCa; Efron, 1987).

    Args:
        columns: (N, M) values of the images.
        statistics: Each maps column means (..., M) to values (...), and comes with the probability
            that its interval covers the true value.
        generator: A generator on the CPU.
        strata: (N,) class of each image. Means are then means over classes of the means in each,
            as in mean per-class accuracy, and images are drawn within their class: one fewer than
            there are, which makes the variance unbiased (Rao and Wu, 1988).
        draws: Number of resamples.

    Raises:
        DataError: If there are fewer than two images (with strata: in any class), values are not
            finite, or a statistic is not defined on a resample.
        ConfigError: If `draws` or a probability is out of range.
    """
    table = _Table(columns, strata)
    means = table.resampled_means(draws, generator)
    return [
        _bca_interval(
            float(statistic(table.means)), statistic(means), table.influences(statistic), level
        )
        for statistic, level in statistics
    ]


def permutation_test(
    first: Tensor,
    second: Tensor,
    statistic: Statistic = first_column,
    *,
    generator: torch.Generator,
    strata: Tensor | None = None,
    draws: int = DRAWS,
) -> float:
    """Return the two-sided p-value of a paired difference: the models are swapped at random.

    Args:
        first: (N, M) columns of one model.
        second: (N, M) those of the other, of the same images.
        statistic: Maps column means (..., M) to values (...).
        generator: A generator on the CPU.
        strata: See :func:`bootstrap`.
        draws: Number of random swaps; all 2^N are made if they are no more than that.

    Returns:
        In (0, 1]. With random swaps the measured assignment counts too (Phipson and Smyth, 2010).

    Raises:
        DataError: If the shapes differ, there are fewer than two images (with strata: in any
            class), or values are not finite.
        ConfigError: If `draws` is out of range.
    """
    if first.shape != second.shape or not len(first):
        raise DataError(
            f"paired values must have one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )
    _check_draws(draws)
    one, two = _Table(first, strata), _Table(second, strata)
    exact = len(first) <= math.log2(draws)
    total = 2 ** len(first) if exact else draws
    gap = two.columns - one.columns
    reached, count = 0, 0
    measured = abs(float(statistic(two.means) - statistic(one.means)))
    enough = measured - _TIED * max(1.0, measured)
    while count < total:
        size = min(total - count, max(1, _RESAMPLED // len(first)))
        if exact:
            codes = torch.arange(count, count + size)[:, None]
            swapped = (codes >> torch.arange(len(first))) & 1
        else:
            swapped = torch.randint(2, (size, len(first)), generator=generator)
        moved = swapped.double() @ gap / len(first)
        found = statistic(two.means - moved) - statistic(one.means + moved)
        reached += int((found.abs() >= enough).sum())
        count += size
    return reached / total if exact else (reached + 1) / (total + 1)


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, got {draws}.")


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's test that two models are right equally often.

    The observed table counts half (mid-p; Fagerland et al., 2013): the exact test is too
    cautious, this one is not, and it keeps its level in practice.

    Args:
        only_first: How many images only one model gets right.
        only_second: How many only the other one gets right.

    Returns:
        In (0, 1].
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    if not total:
        return 1.0
    ways, below = 1, 0  # exact integers
    for count in range(fewer):
        below += ways
        ways = ways * (total - count) // (count + 1)
    if only_first == only_second:
        return 1 - ways / (1 << (total + 1))  # exact before it is rounded, so without overflow
    return (2 * below + ways) / (1 << total)


def detectable_difference(error: float, *, level: float = LEVEL) -> float:
    """Return the smallest true difference that a two-sided test finds in four of five cases.

    Args:
        error: Standard error of the difference.
        level: Confidence level of the test.
    """
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(POWER)) * error


def mean_of_runs(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """Return the mean of several runs with its t interval.

    Args:
        values: A value per run; at least two.
        level: Probability that the interval covers the mean of all runs that could be made.

    Raises:
        DataError: If there are fewer than two.
    """
    if len(values) < _FEWEST:
        raise DataError(f"an interval over runs needs two of them, got {len(values)}.")
    error = stdev(values) / math.sqrt(len(values))
    return _t_interval(fmean(values), error, len(values) - 1, level)


def difference_of_runs(
    first: Sequence[float], second: Sequence[float], *, level: float = LEVEL
) -> Interval:
    """Return the mean of `second` minus that of `first` with Welch's t interval.

    Args:
        first: A value per run; at least two.
        second: The same for the other model.
        level: See :func:`mean_of_runs`.

    Returns:
        The interval, its degrees of freedom rounded down, so that it is never too narrow.

    Raises:
        DataError: If one has fewer than two runs.
    """
    one, two = mean_of_runs(first, level=level), mean_of_runs(second, level=level)
    parts = (one.error**2, two.error**2)
    error = math.sqrt(sum(parts))
    freedom = 1
    if error:
        below = parts[0] ** 2 / (len(first) - 1) + parts[1] ** 2 / (len(second) - 1)
        freedom = max(1, math.floor(error**4 / below + _TIED))
    return _t_interval(two.value - one.value, error, freedom, level)


def t_quantile(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t.

    Args:
        probability: Of values below the quantile, in [0.5, 1).
        freedom: Degrees of freedom, a whole number from 1.
    """
    low, high = 0.0, 1.0
    while t_below(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(100):  # to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, freedom) < probability else (low, middle)
    return high


def t_below(t: float, freedom: int) -> float:
    """Return P(T <= t) for t >= 0: a finite sum for whole numbers (Abramowitz & Stegun, 26.7.3)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = total = (cosine if odd else 1.0) if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2


def _t_interval(value: float, error: float, freedom: int, level: float) -> Interval:
    half = t_quantile((1 + level) / 2, freedom) * error
    return Interval(value=value, low=value - half, high=value + half, error=error)


class _Table:
    """Columns scaled so that their plain means are the means over classes, if there are strata."""

    def __init__(self, columns: Tensor, strata: Tensor | None) -> None:
        columns = columns.double().cpu()
        if columns.ndim != 2 or (strata is not None and strata.shape != columns.shape[:1]):
            raise DataError(f"columns are {tuple(columns.shape)}, expected (N, M), N with strata.")
        if not columns.isfinite().all():
            raise DataError("values of images are NaN or infinite.")
        if len(columns) < _FEWEST:
            raise DataError(f"an interval needs two images, got {len(columns)}.")
        self.members = [torch.arange(len(columns))]
        self.fewer = 0 if strata is None else 1  # images in a resample of a class than in the class
        if strata is not None:
            _, stratum, counts = strata.cpu().unique(return_inverse=True, return_counts=True)
            if int(counts.min()) < _FEWEST:
                alone = int((counts < _FEWEST).sum())
                raise DataError(
                    f"{alone} of {len(counts)} classes have one image, of which no interval can "
                    "be computed."
                )
            # In float64: with rounded weights sums over several classes would not tie.
            columns = columns * (len(columns) / len(counts) / counts[stratum].double())[:, None]
            self.members = list(stratum.argsort(stable=True).split(counts.tolist()))
        self.columns = columns
        self.means = columns.mean(0)

    def resampled_means(self, draws: int, generator: torch.Generator) -> Tensor:
        """Return column means (draws, M) of resamples."""
        _check_draws(draws)
        found, n = [], len(self.columns)
        step = max(1, _RESAMPLED // n)
        one = torch.ones(1, 1, dtype=torch.float64)
        for start in range(0, draws, step):
            size = min(step, draws - start)
            means = torch.zeros(size, self.columns.shape[1], dtype=torch.float64)
            for own in self.members:
                drawn = len(own) - self.fewer
                # How often each image of the class is in each resample.
                indices = torch.randint(len(own), (size, drawn), generator=generator)
                counts = torch.zeros(size, len(own), dtype=torch.float64)
                counts.scatter_add_(1, indices, one.expand(size, drawn))
                means += counts @ self.columns[own] * (len(own) / drawn) / n
            found.append(means)
        return torch.cat(found)

    def influences(self, statistic: Statistic) -> Tensor:
        """Return the jackknife's (N,): how much leaving out each image moves the statistic."""
        means = torch.empty_like(self.columns)
        left_out = torch.empty(len(self.columns), 1, dtype=torch.float64)
        for own in self.members:
            means[own] = self.columns[own].mean(0)
            left_out[own] = len(own) / len(self.columns) / (len(own) - 1)
        values = statistic(self.means - (self.columns - means) * left_out)
        return values.mean() - values


def _bca_interval(value: float, resampled: Tensor, influences: Tensor, level: float) -> Interval:
    """Return the interval of an estimate from its values on resamples, and (N,) influences."""
    if not 0 < level < 1:
        raise ConfigError(f"the level must be between 0 and 1, got {level}.")
    resampled = resampled.double()
    if not (resampled.isfinite().all() and influences.isfinite().all()):
        raise DataError(
            "the statistic is not defined on some resamples, as R² where all targets are equal; "
            "more images are needed for an interval."
        )
    tails = _bca_tails(value, resampled, influences.double(), [(1 - level) / 2, (1 + level) / 2])
    low, high = torch.quantile(resampled, torch.tensor(tails, dtype=torch.float64)).tolist()
    return Interval(value=value, low=low, high=high, error=float(resampled.std()))


def _bca_tails(
    value: float, resampled: Tensor, influences: Tensor, tails: Sequence[float]
) -> list[float]:
    normal = NormalDist()
    close = _TIED * max(1.0, abs(value))
    below = float((resampled < value - close).double().mean())
    tied = float(((resampled - value).abs() <= close).double().mean())
    fraction = below + tied / 2
    spread = float(influences.square().sum())
    if not 0 < fraction < 1 or spread == 0:
        return list(tails)
    bias = normal.inv_cdf(fraction)
    skew = float(influences.pow(3).sum()) / (6 * spread**1.5)
    shifted = [bias + normal.inv_cdf(tail) for tail in tails]
    return [normal.cdf(bias + own / (1 - skew * own)) for own in shifted]
