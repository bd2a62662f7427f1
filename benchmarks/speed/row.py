"""What a row of the table holds, and how its contestants are timed."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Seconds = dict[str, list[float]]
"""The seconds of every turn, by contestant."""


@dataclass(frozen=True, kw_only=True)
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
    """What was measured of one piece of work.

    Attributes:
        title: The work.
        amounts: By contestant, its median speed or time, in `unit`.
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
    contestants: Mapping[str, Callable[[], float | None]], rounds: int, *, warm: int = 1
) -> Seconds:
    """Time contestants in turns, so that a slow moment of the machine hits all of them.

    Args:
        contestants: By name, what to do in one turn; it may return the seconds that count, if it
            also does what does not count.
        rounds: Turns of each that are kept.
        warm: Turns of each before, which are not.

    Returns:
        Seconds of every turn that was kept.
    """
    seconds: Seconds = {name: [] for name in contestants}
    for number in range(warm + rounds):
        for name, turn in contestants.items():
            start = time.perf_counter()
            counted = turn()
            elapsed = time.perf_counter() - start if counted is None else counted
            if number >= warm:
                seconds[name].append(elapsed)
    return seconds


def medians(seconds: Seconds) -> dict[str, float]:
    """Return the median of each contestant's turns."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def speeds(seconds: Seconds, per_turn: float) -> dict[str, float]:
    """Return what each contestant does per second, if a turn does `per_turn`."""
    return {name: per_turn / median for name, median in medians(seconds).items()}


def times_faster(seconds: Seconds, name: str, peer: str) -> float:
    """Return how often `name` is done in the time of `peer`: the median over the rounds."""
    pairs = zip(seconds[peer], seconds[name], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)
