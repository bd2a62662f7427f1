"""Recorded results, read from files and grouped into comparisons."""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.listing import walk
from cassle_zoo.eval.scores import SCORES_FILE, ScoreFile
from cassle_zoo.records import OF_THE_MODEL, MeasuredData, Result

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
_SPLITS = "splits"
_OF_ALL_RUNS = ("input", "network")
"""Parts of a protocol about the model that its runs share."""
_HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b")


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that was recorded with a result.

    Attributes:
        name: File name without the stem of the result's file.
        kind: MIME type without `image/`.
        content: The file's bytes.
    """

    name: str
    kind: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A result with its files.

    Attributes:
        result: The recorded result.
        label: The model's name, with a remark if a comparison has several results of the model.
        images: The recorded images.
        pages: Names of the other recorded files.
        scores: The recorded scores of single images; None if there are none.
    """

    result: Result
    label: str
    images: tuple[Image, ...] = ()
    pages: tuple[str, ...] = ()
    scores: ScoreFile | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results that may stand in one table: the same evaluation on the same data.

    Attributes:
        task: The evaluation.
        data: Name and sha256 of the dataset.
        entries: Models by name, then baselines.
        notes: Remarks on what limits the comparison.
    """

    task: str
    data: MeasuredData
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


def read_entries(paths: Iterable[Path]) -> tuple[list[Entry], list[str]]:
    """Read recorded results.

    Args:
        paths: JSON files, and folders that are searched for them at any depth; hidden files and
            folders are left out.

    Returns:
        The results in the order of their files, and a sentence for each that cannot be read.

    Raises:
        DataError: If a path does not exist, or there is no result.
    """
    files: list[Path] = []
    problems: list[str] = []
    for path in paths:
        if not path.exists():
            raise DataError(
                f"{path}: no such file or folder of results; `cassle-zoo eval TASK MODEL... -o "
                "FOLDER` records some."
            )
        files += _json_files(path, problems) if path.is_dir() else [path]
    entries = []
    for file in dict.fromkeys(file.resolve() for file in files):
        try:
            result = Result.load(file)
        except DataError as error:
            problems.append(str(error).replace(str(file), file.name))
            continue
        entry, wrong = _with_files(result, file)
        entries.append(entry)
        problems += wrong
    if not entries:
        raise DataError(
            "there are no recorded results to report; `cassle-zoo eval TASK MODEL... -o FOLDER` "
            f"records some. {' '.join(problems)}"
        )
    return entries, problems


def _json_files(folder: Path, problems: list[str]) -> list[Path]:
    found = walk(str(folder), set(), lambda closed, error: problems.append(f"{closed}: {error}"))
    return sorted(Path(below, n) for below, names in found for n in names if n.endswith(".json"))


def compare(entries: Sequence[Entry]) -> list[Comparison]:
    """Group entries by evaluation and data, and note what limits their comparison."""
    groups: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        data = entry.result.data
        groups[entry.result.task, data.name, data.sha256].append(entry)
    versions = Counter(name for name, _ in {(name, sha256) for _, name, sha256 in groups})
    return [
        Comparison(
            task=task,
            data=MeasuredData(name=name, sha256=sha256),
            entries=tuple(sorted(_distinguish(own), key=lambda e: (e.result.is_baseline, e.label))),
            notes=tuple(_notes(own, versions[name])),
        )
        for (task, name, sha256), own in sorted(groups.items(), key=lambda item: item[0])
    ]


def _with_files(result: Result, file: Path) -> tuple[Entry, list[str]]:
    images, pages, wrong = [], [], []
    scores = None
    for name in result.files:
        path = file.parent / name
        kind = _IMAGES.get(path.suffix.lower())
        if not path.is_file():
            wrong.append(f"{name}, recorded in {file.name}, is not beside it.")
        elif name.endswith(f".{SCORES_FILE}"):
            try:
                scores = ScoreFile.load(path)
            except DataError as error:
                wrong.append(str(error).replace(str(path), name))
        elif kind is None:
            pages.append(name)
        else:
            short = name.removeprefix(f"{file.stem}.")
            images.append(Image(name=short, kind=kind, content=path.read_bytes()))
    label = result.model.name
    entry = Entry(
        result=result, label=label, images=tuple(images), pages=tuple(pages), scores=scores
    )
    return entry, wrong


def _distinguish(entries: Sequence[Entry]) -> list[Entry]:
    """Add to the labels of one model what differs: weights, options, seed, or else time."""
    by_model: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_model[entry.label].append(entry)
    found = []
    for name, own in by_model.items():
        marks = _marks([entry.result for entry in own])
        found += [
            dataclasses.replace(entry, label=f"{name} ({mark})" if mark else name)
            for entry, mark in zip(own, marks, strict=True)
        ]
    return found


def _marks(results: Sequence[Result]) -> list[str]:
    if len(results) == 1:
        return [""]
    weights = [f"weights {str(result.model.sha256)[:8]}" for result in results]
    seeds = [f"seed {result.seed}" for result in results]
    named = [result.argument for result in results]
    options = [_options(result.command) for result in results]
    shared = set.intersection(*map(set, options))
    chosen = [" ".join(o for o in own if o not in shared) for own in options]
    columns = [column for column in (named, weights, chosen, seeds) if len(set(column)) > 1]
    rows = list(zip(*columns, strict=True)) or [()] * len(results)
    if len(set(rows)) < len(rows):
        rows = [(*row, result.created) for row, result in zip(rows, results, strict=True)]
    marks = [", ".join(filter(None, row)) for row in rows]
    return [
        f"{mark}, file {place}" if marks.count(mark) > 1 else mark
        for place, mark in enumerate(marks, start=1)
    ]


def _options(command: str) -> list[str]:
    """Return the options of the evaluator in a command, with their values."""
    options: list[str] = []
    for word in command.split():
        if word.startswith("--"):
            options.append(word)
        elif options:
            options[-1] += f" {word}"
    return [option for option in options if option.split()[0] not in _NOT_OPTIONS]


def _notes(entries: Sequence[Entry], versions: int) -> list[str]:
    results = [entry.result for entry in entries]
    notes = []
    if versions > 1:
        name = results[0].data.name
        notes.append(f"{name} occurs here in {versions} versions; their numbers differ.")
    notes += [
        f"The protocols differ in {name}: {text}. What was not measured in the same way is not "
        "compared, and no winner is marked."
        for name, text in differences(results).items()
    ]
    hashes: dict[str, set[str | None]] = defaultdict(set)
    for result in results:
        hashes[result.model.name].add(result.model.sha256)
    changed = sorted(name for name, own in hashes.items() if len(own) > 1)
    if changed:
        notes.append(f"Different weights go by the name of {', '.join(changed)}.")
    return notes


def differences(results: Sequence[Result]) -> dict[str, str]:
    """Return what differs between protocols, in words, by part.

    Of each part only text that is not common to all is shown, with the models that have it. Parts
    about the features themselves, which differ between any two models, are left out.
    """
    found = {}
    for name in dict.fromkeys(key for result in results for key in result.protocol):
        if name.startswith(OF_THE_MODEL):
            continue
        texts: dict[str, list[str]] = defaultdict(list)
        for result in results:
            if name in result.protocol:
                texts[_seedless(result, name)].append(result.model.name)
        if len(texts) > 1:
            pieces = {text: re.split(r"(?<=[,;.]) ", _HASH.sub(r"\1…", text)) for text in texts}
            shared = set.intersection(*map(set, pieces.values()))
            found[name] = ", but ".join(
                f"“{' '.join(p for p in pieces[text] if p not in shared) or '(nothing more)'}” of "
                f"{', '.join(dict.fromkeys(models))}"
                for text, models in texts.items()
            )
    return found


def runs_of_models(entries: Sequence[Entry]) -> list[tuple[Entry, ...]]:
    """Group the entries that are runs of one model: other weights or seeds, all else the same.

    If weights and metrics are equal, the seed had no effect: another one makes no other run.

    Args:
        entries: Of one comparison.

    Returns:
        The groups, in the order of their first entries.
    """
    groups: dict[object, list[Entry]] = defaultdict(list)
    for place, entry in enumerate(entries):
        result = entry.result
        protocol = {
            name: _seedless(result, name)
            for name in result.protocol
            if name in _OF_ALL_RUNS or not name.startswith(OF_THE_MODEL)
        }
        key: object = (result.model.name, str(sorted(protocol.items())))
        again = any(
            own.result.model.sha256 == result.model.sha256
            and (own.result.seed == result.seed or own.result.metrics == result.metrics)
            for own in groups[key]
        )
        if again:
            key = place  # the same run measured again says nothing about other runs
        groups[key].append(entry)
    return [tuple(group) for group in groups.values() if group]


def _seedless(result: Result, name: str) -> str:
    if name == _SPLITS:
        return str(result.protocol[name])  # have a seed of their own
    return re.sub(rf"\bseed {result.seed}\b", "seed", str(result.protocol[name]))
