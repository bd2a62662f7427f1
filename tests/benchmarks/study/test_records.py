import dataclasses
from pathlib import Path

import pytest

from benchmarks.study.records import (
    Record,
    best_of,
    check_data,
    choose,
    load_records,
    validation_score,
)
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import EvalData
from cassle_zoo.records import MeasuredData


def test_test_data_play_no_part_in_choices(record: Record) -> None:
    def with_probe(seed: int, *validation: float, test: float) -> Record:
        series = {f"{i}: validation top-1 by w": [0.1, v] for i, v in enumerate(validation)}
        metrics = {"vendor": {"linear_top1": test}}
        result = dataclasses.replace(
            record.results["emoji64"], series={**series, "other": [1.0]}, metrics=metrics
        )
        return dataclasses.replace(record, seed=seed, results={"emoji64": result})

    worse, better = with_probe(0, 0.2, 0.4, test=0.9), with_probe(1, 0.3, 0.4, test=0.1)
    assert validation_score(worse) == pytest.approx(0.3)
    assert best_of([worse, better]) is better
    with pytest.raises(DataError, match="seed 0, has no validation accuracies"):
        best_of([record])


def test_a_grid_without_any_result_chooses_nothing(record: Record) -> None:
    failed = dataclasses.replace(record, error="the loss became nan")
    with pytest.raises(ConfigError, match=r"all 2 trainings.*became nan.*--no-choose"):
        choose([failed, failed])


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("{", "[]", "{}", '{"results": {"emoji64": 3}}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"x\.json"):
            load_records(tmp_path)


def test_records_survive_a_round_trip(with_course: Record, tmp_path: Path) -> None:
    # Stages of a network are in their order, not in that of the alphabet.
    stages = {"infonce/crop/stem": [2.0], "infonce/crop/layer1": [1.0], "infonce/crop/a": [0.5]}
    result = dataclasses.replace(with_course.results["emoji64"], series=stages)
    record = dataclasses.replace(with_course, results={"sensitivity": result})
    record.save(tmp_path / "deep" / "a.json")
    [loaded] = load_records(tmp_path / "deep")
    assert loaded == record
    assert list(loaded.results["sensitivity"].series) == list(stages)


def test_what_was_measured_on_the_way_is_of_the_same_data(with_course: Record) -> None:
    data = EvalData(name="emoji64", sha256="0", images=[], tasks=())
    check_data([with_course], data)
    own = with_course.course["5"]["validation"]
    other = dataclasses.replace(own, data=MeasuredData(name="emoji64", sha256="1"))
    course = {**with_course.course, "5": {"validation": other}}
    with pytest.raises(ConfigError, match="a_simclr, seed 0, is of other data: its sha256 is 1,"):
        check_data([dataclasses.replace(with_course, course=course)], data)
