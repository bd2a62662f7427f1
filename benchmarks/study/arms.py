"""Which arms were recorded, and which are compared."""

from collections.abc import Iterator, Sequence

from benchmarks.study.design import MAIN
from benchmarks.study.records import Record


def arms_of(records: Sequence[Record], group: str) -> list[str]:
    """Return the recorded arms of a group: what others are compared with first."""
    own = sorted((r for r in records if r.group == group), key=lambda r: (r.against != "", r.arm))
    return list(dict.fromkeys(record.arm for record in own))


def pairs_of(records: Sequence[Record], group: str) -> list[tuple[str, str]]:
    """Return the arms of a group with what each is compared with."""
    own = sorted((r.arm, r.against) for r in records if r.group == group and r.against)
    return list(dict.fromkeys(own))


def main_pairs(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return the main arms with the baseline, then those told ω with the rivals that are not."""
    pairs = pairs_of(records, MAIN)
    told = told_of(records, [arm for arm, _ in pairs])
    return [*pairs, *((a, b) for a in told for b, _ in pairs if b not in told)]


def told_of(records: Sequence[Record], arms: Sequence[str]) -> list[str]:
    """Return those arms whose projector is told ω."""
    told = {record.arm for record in records if is_told(record)}
    return [arm for arm in arms if arm in told]


def is_told(record: Record) -> bool:
    """Whether a record's projector is told ω."""
    how: str = record.settings.get("conditioning", {}).get("mode", "none")
    return how != "none"


def gallery_pairs(records: Sequence[Record]) -> Iterator[tuple[str, Record, Record]]:
    """Yield tasks with the first seed's records of the baseline and of CASSLE."""
    main = {r.arm: r for r in records if r.group == MAIN and r.seed == 0 and not r.error}
    for record in main.values():
        if is_told(record) and record.against in main:
            for task in record.neighbours:
                yield task, main[record.against], record
