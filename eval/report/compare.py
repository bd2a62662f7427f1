"""Recorded results read from files, and grouped into what can be compared."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cassle_zoo.common.errors import DataError
from cassle_zoo.records import MeasuredData, Result

_IMAGES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".svg": "svg+xml"}
_NOT_OPTIONS = (
    "--data",
    "--dataset",
    "--download",
    "--seed",
    "--batch-size",
    "--workers",
    "--device",
)
_OWN = ("input", "chosen")  # parts of a protocol that each model has for itself


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that was recorded with a result.

    Attributes:
        name: Of the file, without the prefix that it has in common with that of the result.
        kind: As in `image/KIND`.
        content: The file's bytes.
    """

    name: str
    kind: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A result with what belongs to it.

    Attributes:
        result: As recorded.
        label: Of the model: its name, and what else tells the entry from others of a comparison.
        images: Those of the recorded files that a page can show.
        pages: Names of the other recorded files.
    """

    result: Result
    label: str
    images: tuple[Image, ...] = ()
    pages: tuple[str, ...] = ()

    @property
    def is_baseline(self) -> bool:
        """Whether nothing was learned: raw pixels or an untrained network."""
        return self.result.is_baseline


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results that may stand in one table: the same evaluation on the same data.

    Attributes:
        task: The evaluation.
        data: Name and sha256 of the dataset.
        entries: Models by name, then baselines.
        notes: What a reader must know before comparing.
    """

    task: str
    data: MeasuredData
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


def read_entries(paths: Iterable[Path]) -> tuple[list[Entry], list[str]]:
    """Read recorded results.

    Args:
        paths: JSON files, and folders that are searched for them at any depth.

    Returns:
        The results in the order of their files, and a sentence for each that cannot be read.

    Raises:
        DataError: If a path does not exist, or there is no result.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder of results.")
        files += sorted(path.rglob("*.json")) if path.is_dir() else [path]
    entries, problems = [], []
    for file in dict.fromkeys(file.resolve() for file in files):
        try:
            result = Result.load(file)
        except DataError as error:
            problems.append(str(error).replace(str(file), file.name))
            continue
        entry, missing = _with_files(result, file)
        entries.append(entry)
        problems += [f"{name}, recorded in {file.name}, is not beside it." for name in missing]
    if not entries:
        raise DataError(
            "there are no recorded results to report; `cassle-zoo eval TASK MODEL... -o FOLDER` "
            f"records some. {' '.join(problems)}"
        )
    return entries, problems


def compare(entries: Sequence[Entry]) -> list[Comparison]:
    """Group entries by evaluation and data, and note what makes them hard to compare."""
    groups: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        data = entry.result.data
        groups[entry.result.task, data.name, data.sha256].append(entry)
    versions: dict[str, set[str]] = defaultdict(set)
    for _, name, sha256 in groups:
        versions[name].add(sha256)
    return [
        Comparison(
            task=task,
            data=MeasuredData(name=name, sha256=sha256),
            entries=tuple(sorted(_distinguish(own), key=lambda e: (e.is_baseline, e.label))),
            notes=(*_data_notes(name, len(versions[name])), *_notes(own)),
        )
        for (task, name, sha256), own in sorted(groups.items(), key=lambda item: item[0])
    ]


def _with_files(result: Result, file: Path) -> tuple[Entry, list[str]]:
    images, pages, missing = [], [], []
    for name in result.files:
        path = file.parent / name
        kind = _IMAGES.get(path.suffix.lower())
        if not path.is_file():
            missing.append(name)
        elif kind is None:
            pages.append(name)
        else:
            short = name.removeprefix(f"{file.stem}.")
            images.append(Image(name=short, kind=kind, content=path.read_bytes()))
    label = result.model.name
    entry = Entry(result=result, label=label, images=tuple(images), pages=tuple(pages))
    return entry, missing


def _distinguish(entries: Sequence[Entry]) -> list[Entry]:
    """Tell entries of one model apart by what differs: weights, options, seed, or else time."""
    by_model: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_model[entry.label].append(entry)
    found = []
    for name, own in by_model.items():
        if len(own) == 1:
            found += own
            continue
        marks = _different_marks([entry.result for entry in own])
        found += [
            dataclasses.replace(entry, label=f"{name} ({mark})")
            for entry, mark in zip(own, marks, strict=True)
        ]
    return found


def _different_marks(results: Sequence[Result]) -> list[str]:
    marks = _marks(results)
    if len(set(marks)) < len(marks):
        pairs = zip(marks, results, strict=True)
        marks = [", ".join(filter(None, [mark, result.created])) for mark, result in pairs]
    return [
        f"{mark}, file {place}" if marks.count(mark) > 1 else mark
        for place, mark in enumerate(marks, start=1)
    ]


def _marks(results: Sequence[Result]) -> list[str]:
    """Return what tells results of one model apart: weights, options of the command, seed."""
    weights = [f"weights {str(result.model.sha256)[:8]}" for result in results]
    seeds = [f"seed {result.seed}" for result in results]
    options = [_options(result.command) for result in results]
    shared = set.intersection(*map(set, options))
    chosen = [" ".join(o for o in own if o not in shared) for own in options]
    columns = [column for column in (weights, chosen, seeds) if len(set(column)) > 1]
    return [", ".join(filter(None, row)) for row in zip(*columns, strict=True)] or [""] * len(
        results
    )


def _options(command: str) -> list[str]:
    """Split a command into those options, with their values, that are of the evaluator."""
    options: list[str] = []
    for word in command.split():
        if word.startswith("--"):
            options.append(word)
        elif options:
            options[-1] += f" {word}"
    return [option for option in options if option.split()[0] not in _NOT_OPTIONS]


def _data_notes(name: str, versions: int) -> list[str]:
    if versions < 2:
        return []
    return [f"{name} occurs here in {versions} versions; numbers of different versions differ."]


def _notes(entries: Sequence[Entry]) -> list[str]:
    results = [entry.result for entry in entries]
    names = list(dict.fromkeys(key for result in results for key in result.protocol))
    differing = [
        name
        for name in names
        if not name.startswith(_OWN)
        and len({str(r.protocol[name]) for r in results if name in r.protocol}) > 1
    ]
    notes = []
    if differing:
        notes.append(f"The protocols differ in: {', '.join(differing)}.")
    hashes: dict[str, set[str | None]] = defaultdict(set)
    for result in results:
        hashes[result.model.name].add(result.model.sha256)
    changed = sorted(name for name, own in hashes.items() if len(own) > 1)
    if changed:
        notes.append(f"Different weights go by the name of {', '.join(changed)}.")
    return notes
