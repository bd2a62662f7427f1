"""Datasets of the Hugging Face Hub, read from disk by `datasets`."""

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.files import sha256
from cassle_zoo.data.listing import first_few
from cassle_zoo.data.saved import (
    SavedImages,
    columns_of,
    has_splits,
    image_columns,
    import_datasets,
    is_saved,
    load_saved,
    undecoded,
)
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets.files import classification, hash_bar
from cassle_zoo.eval.datasets.split_rules import (
    HELD_OUT_RULE,
    VALIDATION_NAMES,
    consecutive,
    hold_out,
)


def open_hf(root: Path) -> EvalData:
    """Open a dataset written by `DatasetDict.save_to_disk`, or a folder that `imagefolder` reads.

    The splits `train` and `test` are required; `val`, `validation`, `valid` or `dev` is optional.
    There must be exactly one column of type Image, or one called `image`, and one of ClassLabel.
    Classes without images are left out.

    Raises:
        DataError: If splits, columns or labels are missing, or columns are not unique.
        MissingDependencyError: If `datasets` is not installed.

    Warns:
        UserWarning: About splits of other names, which are left out.
    """
    splits = _load(root)
    validation = [name for name in VALIDATION_NAMES if name in splits]
    missing = [name for name in ("train", "test") if name not in splits]
    if missing or len(validation) > 1:
        raise DataError(
            f"{root} has the splits {', '.join(splits)}; expected train, test, and at most one of "
            f"{', '.join(VALIDATION_NAMES)}."
        )
    if others := sorted({*splits} - {"train", "test", *validation}):
        warnings.warn(f"splits of {root} are left out: {first_few(others)}.", stacklevel=2)
    image, label = (_only_column(splits["train"], kind) for kind in ("Image", "ClassLabel"))
    parts = {"train": splits["train"], "test": splits["test"]}
    if validation:
        parts["val"] = splits[validation[0]]
    for name, part in parts.items():
        if part.features.get(label) != parts["train"].features[label]:
            raise DataError(f"{root}: the classes of {name} are not those of train.")
    images = SavedImages([undecoded(part, image) for part in parts.values()], image)
    labels = [y for part in parts.values() for y in part.with_format(None)[label]]
    if bad := sum(y is None or y < 0 for y in labels):
        raise DataError(
            f"{root}: {bad} of {len(labels)} images have no label, but None or a negative number; "
            "remove them, or the split that has none."
        )
    # In a filtered dataset the label still names all classes.
    used = sorted(set(labels))
    numbers = {y: number for number, y in enumerate(used)}
    labels = [numbers[y] for y in labels]
    indices = consecutive({name: len(part) for name, part in parts.items()})
    rule = "the dataset's own train / val / test"
    hashes = [sha256(images.encoded(i)) for i in hash_bar(range(len(images)), len(images))]
    if not validation:
        count = len(parts["train"])
        indices |= hold_out(labels[:count], hashes[:count])
        rule = f"its own train / test; for validation {HELD_OUT_RULE}, key: sha256 of the file"
    data = classification(
        name=f"hf:{root.resolve().name}",
        images=images,
        labels=labels,
        splits=indices,
        classes=[parts["train"].features[label].names[y] for y in used],
        notes={"splits": rule},
        task=label,
        digest=hashlib.sha256("\n".join(hashes).encode()),
    )
    # Names match features in a file to images; the file's order is not that of the splits.
    names = () if is_saved(root) else _names(images, root)
    return dataclasses.replace(data, names=names, root=root if names else None)


def _names(images: SavedImages, root: Path) -> tuple[str, ...]:
    """Return the names of image files in a folder; none if some are elsewhere, as in archives."""
    folder = root.resolve()  # as `datasets` names them
    names = []
    for index in range(len(images)):
        file = images.file(index)
        if file is None or not file.is_relative_to(folder):
            return ()
        names.append(file.relative_to(folder).as_posix())
    return tuple(names)


def _load(root: Path) -> Mapping[str, Any]:
    datasets = import_datasets()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; download the dataset and save it to disk first.")
    if is_saved(root):
        if not has_splits(root):
            raise DataError(f"{root} is a single split; save a DatasetDict with train and test.")
        return load_saved(root)
    try:
        found: Mapping[str, Any] = datasets.load_dataset("imagefolder", data_dir=str(root))
    except Exception as error:  # what datasets and pyarrow raise; the cause says more
        reason = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"datasets cannot read {root}: {reason:.300}") from error
    return found


def _only_column(part: Any, kind: str) -> str:
    found = image_columns(part) if kind == "Image" else columns_of(part, kind)
    if len(found) != 1:
        raise DataError(
            f"expected one column of type {kind}, found {first_few(found) or 'none'} among "
            f"{', '.join(part.features)}."
        )
    return found[0]
