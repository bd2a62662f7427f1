"""Timing of contestants that take turns, and the resulting row of the table."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Seconds = dict[str, list[float]]
"""The seconds of every turn, by contestant."""


@dataclass(frozen=True)
class Check:
    """A number with a goal.

    Attributes:
        name: What it is.
        value: What was measured.
        at_least: Smallest value that meets the goal.
        at_most: Largest value that meets the goal. Without either the number is only reported.
    """

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one task.

    Attributes:
        title: The task.
        amounts: Median speed or time by contestant, in `unit`.
        unit: Unit of the amounts.
        checks: Ratios and other numbers, most with a goal.
        seconds: Everything that was timed.
        note: What the reader must know, such as why the row was left out.
    """

    title: str
    amounts: dict[str, float] = field(default_factory=dict)
    unit: str = "s"
    checks: list[Check] = field(default_factory=list)
    seconds: Seconds = field(default_factory=dict)
    note: str = ""


def take_turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int, *, warm: int = 1
) -> Seconds:
    """Time contestants in turns, so that a slow moment of the machine affects all of them.

    Args:
        contestants: The work of one turn, by name. If it returns a float, these are the seconds
            that count; otherwise the whole turn counts.
        rounds: Turns of each that count.
        warm: Turns of each before them.

    Returns:
        Seconds of every turn that counts.
    """
    seconds: Seconds = {name: [] for name in contestants}
    for number in range(warm + rounds):
        for name, turn in contestants.items():
            start = time.perf_counter()
            counted = turn()
            elapsed = time.perf_counter() - start
            if number >= warm:
                seconds[name].append(counted if isinstance(counted, float) else elapsed)
    return seconds


def medians(seconds: Seconds) -> dict[str, float]:
    """Return the median of each contestant's turns."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def speeds(seconds: Seconds, per_turn: float) -> dict[str, float]:
    """Return the speed of each contestant, if a turn does `per_turn` units of work."""
    return {name: per_turn / median for name, median in medians(seconds).items()}


def times_faster(seconds: Seconds, name: str, peer: str) -> float:
    """Return how many times faster `name` is than `peer`: the median over the rounds."""
    pairs = zip(seconds[peer], seconds[name], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def compare(
    one: Callable[[], object], other: Callable[[], object], pairs: int
) -> tuple[list[float], list[float]]:
    """Time two contestants back to back, for small differences on a machine that has other work.

    Processor time counts, and the order changes from pair to pair, so that neither other programs
    nor what the first does to caches and memory favour one of them.

    Args:
        one: The work of a turn.
        other: The other's.
        pairs: Turns of each that count, after one of each.

    Returns:
        Seconds of every turn that counts, of both.
    """
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(1 + pairs):
        for index in (0, 1) if number % 2 else (1, 0):
            start = time.process_time()
            (one, other)[index]()
            if number:
                found[index].append(time.process_time() - start)
    return found


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % confidence interval of a distribution's median, from independent draws.

    It is made of two of the draws (order statistics) and assumes nothing about the distribution;
    with fewer than six draws it is the whole range, and less certain than asked for.
    """
    ordered, count = sorted(values), len(values)
    outside, rank = 2 * 0.5**count, 0  # probability that the median is beyond the ends
    while rank + 1 < count // 2:
        more = outside + 2 * math.comb(count, rank + 1) * 0.5**count
        if more > 0.05:
            break
        outside, rank = more, rank + 1
    return ordered[rank], ordered[count - 1 - rank]
