"""The user's own images: folders of classes, with or without splits, tables, and without labels."""

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.data.listing import ClassFolders, first_few, list_classes, list_images
from cassle_zoo.data.readers import ImageFiles
from cassle_zoo.data.tables import PATH_COLUMNS, TABLES, read_rows, unmarked
from cassle_zoo.eval.base import EvalData, leave_out
from cassle_zoo.eval.datasets.files import classification, hash_contents, hash_files
from cassle_zoo.eval.datasets.folders import assemble, files_of, list_within, part_sizes
from cassle_zoo.eval.datasets.near_duplicates import (
    RULE,
    fingerprints_of,
    group_alike,
)
from cassle_zoo.eval.datasets.split_rules import (
    HELD_OUT_RULE,
    VALIDATION_NAMES,
    SplitConfig,
    consecutive,
    hold_out,
    split_by_class,
)

LAYOUTS = (
    "folders of classes (CLASS/*.jpg), train/CLASS/* with test/CLASS/* or val/CLASS/*, a .csv file "
    "of path,label or path,label,split, or images without labels"
)
"""What a folder may hold, for messages."""

_TRAIN, _TEST = ("train", "training"), ("test", "testing")
_LABELS = ("label", "labels", "class", "classname", "class_name", "category", "target")
_SPLITS = ("split", "subset", "partition", "fold", "set")
_FULL_TABLE = 3  # columns


def open_folder(
    root: Path, *, split: SplitConfig | None = None, max_bad_fraction: float = 0.05
) -> EvalData:
    """Open a folder, or a table, of the user's own images.

    The splits depend on names and contents below the folder only, not on the folder's own name.

    Args:
        root: `CLASS/*`, which is split; `train/CLASS/*` with `test/CLASS/*`, and perhaps
            `val/CLASS/*` (also `validation`, `valid` or `dev`; without `test`, it is the test
            split); a .csv or .tsv file of paths (relative to it), labels and, perhaps, splits; or
            images without labels.
        split: How to split `CLASS/*`; by default `SplitConfig()`.
        max_bad_fraction: Fraction of the images of `CLASS/*` that may be unreadable. They are named
            and left out. (In other layouts this happens during extraction.)

    Raises:
        DataError: If it is none of these, classes have too few images, or too many images cannot
            be read.
        ConfigError: If `split` is given, but the images are split already.

    Warns:
        UserWarning: About what is left out, and near-duplicates in different classes.
    """
    name = f"folder:{root.resolve().name}"
    if root.is_file():
        return _open_table(name, root, split, max_bad_fraction)
    if not root.is_dir():
        raise DataError(f"{root} is no folder or .csv file; expected {LAYOUTS}.")
    try:
        folders = sorted(own for own in os.listdir(root) if own[0] != "." and (root / own).is_dir())
    except OSError as error:
        raise DataError(f"cannot open {root}: {error.strerror}.") from error
    parts = _split_folders(root, folders)
    if parts:
        _refuse(split, f"{root} has folders of splits ({', '.join(sorted(parts.values()))})")
        return _open_split(name, root, parts, folders)
    direct = _directly_in(root) if folders else []
    # Such names are of splits, not classes, or a model would be scored on telling splits apart.
    flat = len(folders) > 1 and {own.lower() for own in folders} <= {
        *_TRAIN,
        *_TEST,
        *VALIDATION_NAMES,
    }
    if len(folders) > 1 and not flat:
        if direct:
            _warn_of_stray(root, direct)
        found = list_classes(root, on_unread=_warn)
        return _open_unsplit(name, root, found, split, max_bad_fraction)
    reason = "its images are not in folders of classes."
    if folders and not direct:
        reason = f"there is only one folder of images, {folders[0]}/; two classes are needed."
    if flat:
        reason = (
            f"{' and '.join(f'{own}/' for own in folders)} are splits by their names, but hold no "
            "folders of classes; add some, or use a table of path,label,split."
        )
    _refuse(split, f"{root} has no labels")
    return _unlabelled(name, root, list_images(root, on_unread=_warn), reason)


def _split_folders(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Return the folders of splits, by split: those with a split's name that hold folders."""
    found: dict[str, str] = {}
    for split, names in (("train", _TRAIN), ("val", VALIDATION_NAMES), ("test", _TEST)):
        own = [name for name in folders if name.lower() in names and _holds_folders(root / name)]
        if len(own) > 1:
            raise DataError(f"{root} has {' and '.join(own)}; use only one of them.")
        if own:
            found[split] = own[0]
    return found


def _holds_folders(folder: Path) -> bool:
    try:
        return any(own.is_dir() for own in folder.iterdir() if not own.name.startswith("."))
    except OSError:
        return True  # listing it says why it cannot be opened


def _open_split(
    name: str, root: Path, folders: Mapping[str, str], present: Sequence[str]
) -> EvalData:
    train = list_classes(root, folders.get("train", "train"), on_unread=_warn)
    if "test" not in folders and "val" not in folders:
        raise DataError(
            f"{root / 'test'} must hold a folder of images per class, as train does; or let the "
            f"images of train be split: --data {root / folders['train']}"
        )
    if others := sorted(set(present) - set(folders.values())):
        _warn(f"folders of {root} beside those of splits are left out: {first_few(others)}")
    tested = "test" if "test" in folders else "val"
    list_own = partial(list_within, root, classes=train.classes, on_unread=_warn)
    parts = {"train": train, "test": list_own(folders[tested])}
    if "val" in folders and tested == "test":
        parts["val"] = list_own(folders["val"])
    for folder in folders.values():
        if direct := _directly_in(root / folder):
            _warn_of_stray(root / folder, direct)
    splits = consecutive(part_sizes(parts))
    rule = "the folders train / val / test"
    if "val" not in parts:
        prefix = f"{folders['train']}/"
        splits |= hold_out(train.labels, [own.removeprefix(prefix) for own in train.names])
        rule = f"the folders train and {tested}; for validation {HELD_OUT_RULE}, key: CLASS/IMAGE"
        if tested == "val":
            rule = f"tested on the folder val, as there is no test; {rule}"
    _check_classes(train.classes)
    images = files_of(root, parts)
    contents = hash_contents(images)
    notes = {"splits": rule} | _note_copies(images.names, contents, splits)
    return assemble(name, root, parts, splits, notes, contents)


def _open_unsplit(
    name: str,
    root: Path,
    found: ClassFolders,
    split: SplitConfig | None,
    max_bad_fraction: float,
) -> EvalData:
    """Split images by class, leaving out those that cannot be read."""
    split = split or SplitConfig()
    _check_classes(found.classes)
    keys = hash_contents(ImageFiles(root, found.names))
    fingerprints, bad = fingerprints_of([root / name for name in found.names])
    left_out: dict[str, str] = {}
    if bad:
        named = [(found.names[index], reason) for index, reason in bad.items()]
        left_out["left out"] = leave_out(root, named, len(found.names), max_bad_fraction)
    rows = [index for index in range(len(found.names)) if index not in bad]
    names, labels = [found.names[i] for i in rows], [found.labels[i] for i in rows]
    groups = group_alike(fingerprints[rows])
    _warn_of_conflicts(names, labels, groups)
    splits = split_by_class(labels, [keys[i] for i in rows], groups, found.classes, split)
    counts = " / ".join(f"{len(splits[own]):,} {own}" for own in ("train", "val", "test"))
    grouped = sum(count for count in Counter(groups).values() if count > 1)
    notes = {
        "splits": (
            f"{counts}; of every class {split.test:g} to test and {split.val:g} for validation, "
            f"seed {split.seed}, ranked by sha256 of the content; {RULE} stay together: "
            f"{grouped} images have one"
        ),
        **left_out,
    }
    return classification(
        name=name,
        images=ImageFiles(root, names),
        labels=labels,
        splits=splits,
        classes=found.classes,
        notes=notes,
        contents=[keys[i] for i in rows],
    )


def _warn_of_conflicts(names: Sequence[str], labels: Sequence[int], groups: Sequence[int]) -> None:
    first = {group: index for index, group in reversed(list(enumerate(groups)))}
    pairs = [
        f"{names[first[group]]} and {names[index]}"
        for index, group in enumerate(groups)
        if labels[first[group]] != labels[index]
    ]
    if pairs:
        what = "a near-duplicate" if len(pairs) == 1 else f"{len(pairs)} near-duplicates"
        _warn(f"{what} of an image of another class; is a label wrong? {first_few(pairs, 3)}")


def _unlabelled(name: str, root: Path, files: Sequence[Path], reason: str) -> EvalData:
    if not files:
        raise DataError(f"{root} holds no images that can be read; expected {LAYOUTS}.")
    images = ImageFiles(root, [file.relative_to(root).as_posix() for file in files])
    return EvalData(
        name=name,
        sha256=hash_files(images).hexdigest(),
        images=images,
        tasks=(),
        notes={"splits": "none, the images have no labels"},
        names=images.names,
        root=root,
        unlabelled=reason,
    )


@dataclass(frozen=True, kw_only=True)
class _Row:
    path: str
    label: str
    split: str


def _open_table(
    name: str, table: Path, split: SplitConfig | None, max_bad_fraction: float
) -> EvalData:
    """Open a table of paths, labels and splits."""
    rows = _read_rows(table)
    paths = [Path(os.path.abspath(table.parent / row.path)) for row in rows]
    root = _common_folder(table.parent, paths)
    names = [path.relative_to(root).as_posix() for path in paths]
    if twice := [own for own, count in Counter(names).items() if count > 1]:
        raise DataError(f"{table} names images several times: {first_few(twice)}.")
    if missing := [own for own in names if not (root / own).is_file()]:
        raise DataError(
            f"{table}: {len(missing)} of {len(names)} images are not there, the first is "
            f"{missing[0]!r} in {root}. Paths are relative to the table's folder. (A table's first "
            f"line may name its columns: {PATH_COLUMNS[0]}, {_LABELS[0]}, {_SPLITS[0]}.)"
        )
    if not any(row.label for row in rows):
        _refuse(split, f"{table} has no labels")
        reason = f"{table.name} has no column of labels ({', '.join(_LABELS)})."
        return _unlabelled(name, root, paths, reason)
    if unlabelled := [row.path for row in rows if not row.label]:
        raise DataError(f"{table}: images without a label: {first_few(unlabelled)}.")
    order = sorted(range(len(rows)), key=lambda i: (rows[i].label, names[i].split("/")))
    classes = sorted({row.label for row in rows})
    _check_classes(classes)
    if not any(row.split for row in rows):
        found = ClassFolders.of([names[i] for i in order], [rows[i].label for i in order], classes)
        return _open_unsplit(name, root, found, split, max_bad_fraction)
    _refuse(split, f"{table} has a column of splits")
    return _split_by_table(name, table, root, [(names[i], rows[i]) for i in order], classes)


def _split_by_table(
    name: str,
    table: Path,
    root: Path,
    rows: Sequence[tuple[str, _Row]],
    classes: Sequence[str],
) -> EvalData:
    known = {own: "train" for own in _TRAIN} | {own: "test" for own in _TEST}
    known |= {own: "val" for own in VALIDATION_NAMES}
    if unknown := sorted({row.split for _, row in rows} - known.keys()):
        raise DataError(
            f"{table}: unknown splits {first_few(list(map(repr, unknown)))}; expected train, val "
            "or test for every image."
        )
    of_row = [known[row.split] for _, row in rows]
    tested = "test" if "test" in of_row else "val"
    if "train" not in of_row or tested not in of_row:
        raise DataError(f"{table} has no images of the splits train and test (or val).")
    number = {own: index for index, own in enumerate(classes)}
    labels = [number[row.label] for _, row in rows]
    index = {own: [i for i, found in enumerate(of_row) if found == own] for own in set(of_row)}
    if strange := set(labels) - {labels[i] for i in index["train"]}:
        unseen = sorted(classes[label] for label in strange)
        raise DataError(f"{table} has classes without images to train with: {first_few(unseen)}.")
    splits: dict[str, Tensor] = {own: torch.tensor(found) for own, found in index.items()}
    splits["test"] = splits[tested]
    rule = "as the table says"
    if tested == "val" or "val" not in of_row:
        train = index["train"]
        held = hold_out([labels[i] for i in train], [rows[i][0] for i in train])
        splits |= {own: splits["train"][chosen] for own, chosen in held.items()}
        rule = f"train and {tested} as the table says; for validation {HELD_OUT_RULE}, key: path"
        if tested == "val":
            rule = f"tested on val, as there is no test; {rule}"
    images = ImageFiles(root, [own for own, _ in rows])
    contents = hash_contents(images)
    return classification(
        name=name,
        images=images,
        labels=labels,
        splits={own: splits[own] for own in ("train", "val", "test")},
        classes=classes,
        notes={"splits": rule} | _note_copies(images.names, contents, splits),
        contents=contents,
    )


def _note_copies(
    names: Sequence[str], contents: Sequence[str], splits: Mapping[str, Tensor]
) -> dict[str, str]:
    """Warn of test images that are also training or validation images; return this as a note."""
    seen = {contents[i]: names[i] for own in ("train", "val") for i in splits[own].tolist()}
    test = splits["test"].tolist()
    copies = [f"{names[i]} is {seen[contents[i]]}" for i in test if contents[i] in seen]
    if not copies:
        return {}
    says = (
        f"{len(copies)} of {len(test)} test images are also among those to train or validate with: "
        f"{first_few(copies, 3)}"
    )
    _warn(f"{says}; remove them, or results are better than on new images")
    return {"copies": says}


def _read_rows(table: Path) -> list[_Row]:
    """Read a table; its first line is a header if it names a column of paths."""
    if table.suffix.lower() not in TABLES:
        raise DataError(f"{table} is a file, but no .csv; expected {LAYOUTS}.")
    try:
        text = unmarked(table.read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {table}: {error}.") from error
    rows = [(line, [c.strip() for c in row]) for line, row in read_rows(str(table), text)]
    if not rows:
        raise DataError(f"{table} is empty.")
    head = [cell.lower() for cell in rows[0][1]]
    places = [_place(head, names) for names in (PATH_COLUMNS, _LABELS, _SPLITS)]
    if places[0] is None:
        width = len(head)
        if width > _FULL_TABLE:
            raise DataError(
                f"{table} has {width} columns; name them in its first line: {PATH_COLUMNS[0]}, "
                f"{_LABELS[0]} and perhaps {_SPLITS[0]}."
            )
        places = [0, 1 if width > 1 else None, 2 if width == _FULL_TABLE else None]
    else:
        if twice := [own for own in (*PATH_COLUMNS, *_LABELS, *_SPLITS) if head.count(own) > 1]:
            raise DataError(f"{table} has several columns {first_few(twice)}; rename all but one.")
        rows = rows[1:]
    found = []
    for line, row in rows:
        if len(row) != len(head):
            raise DataError(f"{table}, line {line}: {len(row)} columns, expected {len(head)}.")
        path, label, own = ("" if place is None else row[place] for place in places)
        if not path:
            raise DataError(f"{table}, line {line}: no path.")
        found.append(_Row(path=path, label=label, split=own.lower()))
    if not found:
        raise DataError(f"{table} names no images.")
    return found


def _place(head: Sequence[str], names: Sequence[str]) -> int | None:
    return next((head.index(name) for name in names if name in head), None)


def _common_folder(beside: Path, paths: Sequence[Path]) -> Path:
    """Return the table's folder or, if images are elsewhere, the folder that they share."""
    beside = Path(os.path.abspath(beside))
    if all(path.is_relative_to(beside) for path in paths):
        return beside
    return Path(os.path.commonpath([path.parent for path in paths]))


def _directly_in(folder: Path) -> list[Path]:
    return [file for file in list_images(folder) if file.parent == folder]


def _warn_of_stray(folder: Path, direct: Sequence[Path]) -> None:
    _warn(f"{len(direct)} images directly in {folder} have no class and are left out")


def _check_classes(classes: Sequence[str]) -> None:
    if len(classes) == 1:
        raise DataError(f"there is only one class, {classes[0]}; two are needed.")


def _refuse(split: SplitConfig | None, why: str) -> None:
    if split is not None:
        raise ConfigError(f"--split applies to images that are to be split, but {why}.")


def _warn(text: str) -> None:
    warnings.warn(f"{text}.", stacklevel=2)
