"""Sentences: which model is better, by how much, and whether that is certain."""

from collections.abc import Sequence
from dataclasses import dataclass

from cassle_zoo.eval.report.evidence import Row
from cassle_zoo.eval.report.glossary import (
    describe,
    format_difference,
    format_interval,
    format_value,
    with_unit,
)
from cassle_zoo.eval.statistics import Interval

_SMALL = 1000  # images
_TINY_P = 0.001


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a row says.

    Attributes:
        headline: Which model is ahead, and whether that is certain.
        against: A phrase for each other model: how far it is behind, or not told apart.
    """

    headline: str
    against: tuple[str, ...] = ()


def verdict(row: Row, labels: Sequence[str]) -> Verdict | None:
    """Return which model is best, its distance from the others, and how sure it is.

    Args:
        row: A metric with a better direction.
        labels: Names of the models.

    Returns:
        The verdict; `None` if nothing was measured.
    """
    known = [place for place, cell in enumerate(row.cells) if cell.value is not None]
    if not known:
        return None
    if row.best is None:
        return Verdict(headline=f"{labels[known[0]]}: {_value(row, known[0])}.")
    best, value = labels[row.best], _value(row, row.best)
    extreme = "lowest" if describe(row.metric).direction < 0 else "highest"
    ahead = [
        labels[place] for place in known if row.cells[place].value == row.cells[row.best].value
    ]
    tied = [own for own in row.differences if not own.is_sure]
    tested = {own.other for own in row.differences}
    rest = [labels[place] for place in known if place != row.best and place not in tested]
    against = [
        f"{'not told apart from' if own in tied else 'better than'} {labels[own.other]}: "
        f"{_gap(row, own.interval)}"
        for own in sorted(row.differences, key=lambda own: abs(own.interval.value))
    ]
    if rest:
        against.append(f"not tested against {', '.join(rest)}: {_untested(row)}")
    if row.is_told_apart:
        headline = f"{best} is better than all others: {value}."
    elif len(ahead) > 1:
        names = f"{', '.join(ahead[:-1])} and {ahead[-1]}"
        headline = f"No winner. {names} have the same value, {value}."
    elif tied:
        headline = f"No winner. {best} has the {extreme} value, {value}, but that may be chance."
    else:
        headline = f"{best} has the {extreme} value, {value}; whether that is chance is not known."
    return Verdict(headline=headline, against=tuple(against))


def detectable_text(row: Row) -> str:
    """Return how small a difference a test set can show, as a sentence; empty if unknown."""
    if row.detectable is None or not row.counts:
        return ""
    size = with_unit(row.metric, format_difference(row.metric, row.detectable).lstrip("+"))
    own = None if row.best is None else row.cells[row.best].count
    is_small = (own or row.counts[0]) < _SMALL and row.unit == "image"
    small = "a small test; " if is_small else ""
    return (
        f"{row.task}, {describe(row.metric).label}: {row.counted}; {small}a true "
        f"difference of {size} would be found in 4 of 5 such tests, a smaller one is easily missed."
    )


def p_text(p: float) -> str:
    """Return a p-value to two digits, or `< 0.001`."""
    return "< 0.001" if p < _TINY_P else f"{p:.2g}"


def _value(row: Row, place: int) -> str:
    cell = row.cells[place]
    unit = describe(row.metric).unit
    text = f"{format_value(row.metric, cell.value)} {unit}".strip()
    if cell.interval is None:
        return text
    limits = format_interval(row.metric, cell.interval)
    runs = f"mean of {cell.runs} runs, " if cell.runs > 1 else ""
    return f"{text} ({runs}95 % interval {limits})".replace("-", "−")


def _gap(row: Row, interval: Interval) -> str:
    text = with_unit(row.metric, format_difference(row.metric, interval.value))
    if interval.is_constant:
        return f"{text} on every image"
    return f"{text}, interval {format_interval(row.metric, interval, format_difference)}"


def _untested(row: Row) -> str:
    known = [cell for cell in row.cells if cell.value is not None]
    if any(cell.runs > 1 and cell.interval is None for cell in known):
        return "runs of equal values do not say how far apart others would be"
    if len({cell.runs > 1 for cell in known}) > 1:
        return "a single run cannot be tested against several"
    if not any(cell.count is not None for cell in known):
        return "no scores of single images were recorded, from which that could be computed"
    if not all(cell.count is not None for cell in known):
        return "of some of these models no scores of single images were recorded"
    if all(cell.interval is None for cell in known):
        return "no interval can be given, as there are too few images or all score alike"
    return "they were not measured in the same way on the same images"
