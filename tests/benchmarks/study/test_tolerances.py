import dataclasses
from collections import Counter

import pytest
from scipy.stats import t as student

from benchmarks.study.records import RECORDS, Record, load_records
from benchmarks.study.tolerances import LEAST, TOLERANCES, T, seed_tolerances
from cassle_zoo.cli.reproduce import recorded_results
from cassle_zoo.common.files import read_json


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ([(0.2,)], LEAST),
        ([(0.3, 0.3, 0.3)], LEAST),
        ([(0.2, 0.3, 0.4)], T * 2**0.5 * 0.1),
        # Pooled: variances 0.01 and 0.02 of two and one degrees of freedom.
        ([(0.2, 0.3, 0.4), (0.5, 0.7), (0.9,)], T * 2**0.5 * (0.04 / 3) ** 0.5),
    ],
)
def test_tolerance_is_what_two_seeds_may_differ_by(
    record: Record, arms: list[tuple[float, ...]], expected: float
) -> None:
    first = record.results["emoji64"]
    records = [
        dataclasses.replace(
            record,
            arm=f"arm {number}",
            seed=seed,
            results={"emoji64": dataclasses.replace(first, metrics={"flags": {"recall@1": value}})},
        )
        for number, values in enumerate(arms)
        for seed, value in enumerate(values)
    ]
    # Other groups and runs that diverged do not count.
    records.append(dataclasses.replace(record, group="grid", results={}))
    records.append(dataclasses.replace(record, error="the loss became nan", results={}))
    found = seed_tolerances(records)
    assert found == {"flags": {"recall@1": pytest.approx(expected, abs=1e-6)}}


def test_the_constant_is_students() -> None:
    samples = Counter(r.arm for r in load_records(RECORDS) if r.group == "main" and not r.error)
    freedom = sum(count - 1 for count in samples.values())
    assert pytest.approx(student.isf(0.05 / 17 / 2, freedom), abs=0.05) == T


def test_the_committed_tolerances_are_fresh() -> None:
    found = seed_tolerances(load_records(RECORDS))
    assert read_json(TOLERANCES) == found
    for result in recorded_results().values():
        assert {(task, m) for task in result.metrics for m in result.metrics[task]} == {
            (task, m) for task in found for m in found[task]
        }
