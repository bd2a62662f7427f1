"""What a training of the study left: its settings and all that was measured, as one JSON file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.study.design import Choice, Job
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.files import read_json
from cassle_zoo.eval.base import EvalData
from cassle_zoo.records import Result
from cassle_zoo.train.run.fingerprint import flat_settings

RECORDS = Path(__file__).resolve().parent / "records"
"""Those that docs/study.md is made from."""

_VALIDATION = "validation top-1 by w"
_FREE = ("data", "run")  # parts of the settings that do not change the result, but for the seed


@dataclass(frozen=True, kw_only=True)
class Record:
    """One training, evaluated.

    Attributes:
        arm: Name of the arm.
        group: Part of the study.
        against: Arm that it is compared with; empty if none.
        seed: Of the training.
        settings: Of the training, as JSON types, without what does not change the result.
        results: What was measured, by evaluation.
        neighbours: By task, rows of indices of images: a query, then the nearest to it.
        seconds: Spent on `train` and `evaluate`.
        device: What it was trained on.
        error: Why there are no results: the loss diverged, or the features collapsed.
    """

    arm: str
    group: str
    against: str
    seed: int
    settings: Mapping[str, Any]
    results: Mapping[str, Result] = field(default_factory=dict)
    neighbours: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    seconds: Mapping[str, float]
    device: str
    error: str = ""

    def save(self, path: Path) -> None:
        """Write to a file, which is either complete or not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["results"] = {task: json.loads(r.to_json()) for task, r in self.results.items()}
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: If it is no record.
        """
        try:
            values = read_json(path)
            results = values.pop("results")
            values["results"] = {
                task: Result.from_json(json.dumps(content), f"{path}, {task}")
                for task, content in results.items()
            }
            return cls(**values)
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise DataError(f"{path} is no record of the study: {error!r}.") from error


def load_records(folder: Path) -> list[Record]:
    """Read all records of a folder, in the order of their names.

    Raises:
        DataError: If there is no such folder, or a file is no record.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {str(folder)!r} with records of the study.")
    return [Record.load(path) for path in sorted(folder.glob("*.json"))]


def settings_of(job: Job) -> dict[str, Any]:
    """Return the settings that decide about a job's result; only a name of what is not trained."""
    if job.arm.source:
        return {"name": job.arm.source}
    values = job.arm.config.to_dict()
    return {name: value for name, value in values.items() if name not in _FREE}


def check_settings(record: Record, job: Job) -> None:
    """Check that a record is of a job's settings; those that only one of both knows may differ.

    Raises:
        ConfigError: Naming the settings that differ, with both values.
    """
    now = json.loads(json.dumps(settings_of(job)))  # tuples as in the record: lists
    old, new = flat_settings(record.settings), flat_settings(now)
    differing = [
        f"{name}: {old[name]!r} there, {new[name]!r} now"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name]
    ]
    if differing:
        raise ConfigError(
            f"the record of {job.name} is of other settings ({'; '.join(differing)}); use another "
            "folder, or the same settings."
        )


def check_data(records: Sequence[Record], data: EvalData) -> None:
    """Check that records were measured on data.

    Raises:
        ConfigError: Naming the first record that was not, with both hashes.
    """
    for record in records:
        for result in record.results.values():
            if result.data["sha256"] != data.sha256:
                raise ConfigError(
                    f"the record of {record.arm}, seed {record.seed}, is of other data: sha256 "
                    f"{result.data['sha256']}, but {data.name} as given has {data.sha256}; use the "
                    "same data, or other records."
                )


def validation_score(record: Record) -> float:
    """Return the mean over tasks of the linear probe's top-1 on validation data, in [0, 1].

    Each task's w is the best on the same data. Test data play no part. 0 without results.

    Raises:
        DataError: If the record has no linear probe.
    """
    if record.error:
        return 0.0
    best = [
        max(accuracies)
        for result in record.results.values()
        for name, accuracies in result.series.items()
        if name.endswith(_VALIDATION)
    ]
    if not best:
        raise DataError(
            f"the record of {record.arm}, seed {record.seed}, has no validation accuracies; remove "
            "it, and the study measures the trained model again."
        )
    return sum(best) / len(best)


def best_of(records: Sequence[Record]) -> Record:
    """Return the record with the best validation score, the first if several are equal.

    This chooses the hyper-parameters of the baseline, and the seed of an arm to be published.

    Args:
        records: At least one.
    """
    return max(records, key=validation_score)


def choose(records: Sequence[Record]) -> Choice:
    """Return the hyper-parameters of the best record of the grid.

    Raises:
        ConfigError: If none of them has a result.
    """
    if all(record.error for record in records):
        raise ConfigError(
            f"all {len(records)} trainings of the grid failed, the first with: {records[0].error} "
            "Pass --no-choose to take the recipe's learning rate and weight decay."
        )
    optim = best_of(records).settings["optim"]
    return Choice(base_lr=optim["base_lr"], weight_decay=optim["weight_decay"])
