"""Records of the study: one JSON file per training, and the arms they belong to."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.study.design import MAIN, HyperParameters, Job
from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.files import read_json, write_text
from cassle_zoo.eval.base import EvalData
from cassle_zoo.records import FORMAT_VERSION, Result, without_format_version
from cassle_zoo.train.run.fingerprint import flat_settings

RECORDS = Path(__file__).resolve().parent / "records"
"""The published ones, which docs/study.md is made from."""

COURSES = "course"
"""Folder, in one of records, of trainings of which only the course is shown."""

_VALIDATION = "validation top-1 by w"
_FREE = ("data", "run")  # sections of the settings that do not change the result (the seed does)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One training and its results.

    Attributes:
        arm: Name of the arm.
        group: Part of the study.
        against: Arm that it is compared with; empty if none.
        seed: Seed of the training.
        settings: Settings of the training that change the result, as JSON types.
        results: Results by evaluation.
        course: Results on validation images of each of the training's snapshots: by epoch, then by
            evaluation.
        neighbours: By task, rows of image indices: a query, then the images nearest to it.
        seconds: Time spent on `train` and on `evaluate`.
        device: Device it was trained on.
        error: Why there are no results: the loss diverged, or the features collapsed.
        training: What the run says about its making: `commit`, versions, `images` and `init`, the
            starting weights; and the `machine`. Empty without training, and in older records.
    """

    arm: str
    group: str
    against: str
    seed: int
    settings: Mapping[str, Any]
    results: Mapping[str, Result] = field(default_factory=dict)
    course: Mapping[str, Mapping[str, Result]] = field(default_factory=dict)
    neighbours: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    seconds: Mapping[str, float]
    device: str
    error: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_conditioned(self) -> bool:
        """Whether the projector is conditioned on ω."""
        mode: str = self.settings.get("conditioning", {}).get("mode", "none")
        return mode != "none"

    def save(self, path: Path) -> None:
        """Write to a file, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values = {"format_version": FORMAT_VERSION, **own}
        values["results"] = _to_json(self.results)
        values["course"] = {epoch: _to_json(results) for epoch, results in self.course.items()}
        write_text(path, json.dumps(values, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: If it is not a record.
        """
        try:
            values = without_format_version(read_json(path), str(path))
            values["results"] = _from_json(values["results"], str(path))
            values["course"] = {
                epoch: _from_json(results, f"{path}, epoch {epoch}")
                for epoch, results in values.get("course", {}).items()
            }
            return cls(**values)
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise DataError(f"{path} is not a record of the study: {error!r}.") from error


def _to_json(results: Mapping[str, Result]) -> dict[str, Any]:
    return {task: json.loads(result.to_json()) for task, result in results.items()}


def _from_json(results: Mapping[str, Any], source: str) -> dict[str, Result]:
    return {
        task: Result.from_json(json.dumps(content), f"{source}, {task}")
        for task, content in results.items()
    }


def load_records(folder: Path) -> list[Record]:
    """Read all records of a folder, in the order of their names.

    Raises:
        DataError: If there is no such folder, or a file is not a record.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {str(folder)!r} with records of the study.")
    return [Record.load(path) for path in sorted(folder.glob("*.json"))]


def load_courses(folder: Path) -> list[Record]:
    """Read the records of trainings whose snapshots were measured, including those in `COURSES`.

    Raises:
        DataError: As for `load_records`.
    """
    more = load_records(folder / COURSES) if (folder / COURSES).is_dir() else []
    return [record for record in (*load_records(folder), *more) if record.course]


def settings_of(job: Job) -> dict[str, Any]:
    """Return the settings that decide a job's result; for an untrained source only its name."""
    if job.arm.source:
        return {"name": job.arm.source}
    values = job.arm.config.to_dict()
    return {name: value for name, value in values.items() if name not in _FREE}


def check_settings(record: Record, job: Job) -> None:
    """Check that a record has a job's settings; a setting that only one of them has may differ.

    Raises:
        ConfigError: Naming the settings that differ, with both values.
    """
    now = json.loads(json.dumps(settings_of(job)))  # tuples become lists, as in the record
    old, new = flat_settings(record.settings), flat_settings(now)
    differing = [
        f"{name}: {old[name]!r} there, {new[name]!r} now"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name]
    ]
    if differing:
        raise ConfigError(
            f"the record of {job.name} has other settings ({'; '.join(differing)}); use another "
            "folder, or the same settings."
        )


def check_data(records: Sequence[Record], data: EvalData) -> None:
    """Check that records, and results of their snapshots, are of a dataset.

    Raises:
        ConfigError: Naming the first record that is not, with both hashes.
    """
    for record in records:
        for results in (record.results, *record.course.values()):
            for result in results.values():
                if result.data.sha256 != data.sha256:
                    raise ConfigError(
                        f"the record of {record.arm}, seed {record.seed}, is of other data: its "
                        f"sha256 is {result.data.sha256}, that of {data.name} as given "
                        f"{data.sha256}; use the same data, or other records."
                    )


def validation_score(record: Record) -> float:
    """Return the mean over tasks of the linear probe's top-1 on validation data, in [0, 1].

    Each task's w is the best on the same data; test data are not used. 0 without results.

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
    """Return the record with the best validation score, the first of equal ones.

    This chooses the hyper-parameters of the baseline, and the seed of an arm to be published.
    """
    return max(records, key=validation_score)


def choose(records: Sequence[Record]) -> HyperParameters:
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
    return HyperParameters(base_lr=optim["base_lr"], weight_decay=optim["weight_decay"])


def course_of(record: Record) -> dict[int, Record]:
    """Return a record of each snapshot of a training, by epoch in order."""
    return {
        epoch: dataclasses.replace(record, results=record.course[str(epoch)])
        for epoch in sorted(map(int, record.course))
    }


def named_by_length(records: Sequence[Record]) -> list[Record]:
    """Name arms after their number of epochs too: of one arm, trainings of several lengths."""
    found = []
    for record in records:
        length = f", {record.settings['optim']['epochs']} epochs"
        against = record.against and record.against + length
        found.append(dataclasses.replace(record, arm=record.arm + length, against=against))
    return found


def arms_of(records: Sequence[Record], group: str) -> list[str]:
    """Return the recorded arms of a group, those that others are compared with first."""
    own = sorted((r for r in records if r.group == group), key=lambda r: (r.against != "", r.arm))
    return list(dict.fromkeys(record.arm for record in own))


def conditioned(records: Sequence[Record], arms: Sequence[str]) -> list[str]:
    """Return those of `arms` whose projector is conditioned on ω."""
    found = {record.arm for record in records if record.is_conditioned}
    return [arm for arm in arms if arm in found]


def pairs_of(records: Sequence[Record], group: str) -> list[tuple[str, str]]:
    """Return the arms of a group, each with the arm that it is compared with.

    Conditioned main arms are compared with those that are not (AugSelf), too.
    """
    own = sorted((r.arm, r.against) for r in records if r.group == group and r.against)
    pairs = list(dict.fromkeys(own))
    if group == MAIN:
        with_omega = conditioned(records, [arm for arm, _ in pairs])
        pairs += [(a, b) for a in with_omega for b, _ in pairs if b not in with_omega]
    return pairs


def gallery_pairs(records: Sequence[Record]) -> Iterator[tuple[str, Record, Record]]:
    """Yield tasks with the first seed's records of the baseline and of CASSLE."""
    main = {r.arm: r for r in records if r.group == MAIN and r.seed == 0 and not r.error}
    for record in main.values():
        if record.is_conditioned and record.against in main:
            for task in record.neighbours:
                yield task, main[record.against], record
