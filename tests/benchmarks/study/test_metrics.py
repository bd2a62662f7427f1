import dataclasses

import pytest

from benchmarks.study.metrics import Metric, values
from benchmarks.study.records import Record
from cassle_zoo.common.errors import DataError

FLAGS = Metric(evaluation="emoji64", part="flags", name="recall@1", title="flags", scale=100)


def test_values_leave_out_what_diverged(record: Record) -> None:
    broken = dataclasses.replace(record, seed=1, results={}, error="the loss became nan")
    assert values([record, broken], record.arm, FLAGS) == {0: 25.0}
    assert values([record], "another", FLAGS) == {}
    unknown = dataclasses.replace(FLAGS, name="recall@7")
    with pytest.raises(DataError, match="recall@7"):
        values([record], record.arm, unknown)
