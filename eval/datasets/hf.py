"""Datasets of the Hugging Face Hub, read from disk by `datasets`."""

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from cassle_zoo.common.errors import DataError, MissingDependencyError
from cassle_zoo.common.files import sha256
from cassle_zoo.common.images import open_image
from cassle_zoo.data.listing import first_few
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets.files import classification
from cassle_zoo.eval.datasets.folders import VALIDATION_NAMES
from cassle_zoo.eval.datasets.split_rules import HELD_OUT_RULE, consecutive, hold_out


class HubImages:
    """The concatenated images of several datasets; the Arrow files stay on disk."""

    def __init__(self, parts: list[Any], column: str) -> None:
        """Take datasets whose `column` is not decoded."""
        self.parts = parts
        self.column = column

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(map(len, self.parts))

    def encoded(self, index: int) -> bytes:
        """Return the encoded image: the content of a file."""
        for part in self.parts:
            if index < len(part):
                value = part[index][self.column]
                content: bytes | None = value["bytes"]
                return Path(value["path"]).read_bytes() if content is None else content
            index -= len(part)
        raise IndexError(index)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image (RGB, upright, on white) and its index."""
        return open_image(self.encoded(index)), index


def open_hf(root: Path) -> EvalData:
    """Open a dataset written by `DatasetDict.save_to_disk`, or a folder that `imagefolder` reads.

    The splits `train` and `test` are required; `val`, `validation`, `valid` or `dev` is optional.
    There must be exactly one column of type Image and one of type ClassLabel.

    Raises:
        DataError: If splits or columns are missing or not unique.
        MissingDependencyError: If `datasets` is not installed.
    """
    splits = _load(root)
    validation = [name for name in VALIDATION_NAMES if name in splits]
    missing = [name for name in ("train", "test") if name not in splits]
    if missing or len(validation) > 1:
        raise DataError(
            f"{root} has the splits {', '.join(splits)}; expected train, test, and at most one of "
            f"{', '.join(VALIDATION_NAMES)}."
        )
    image, label = (_only_column(splits["train"], kind) for kind in ("Image", "ClassLabel"))
    parts = {"train": splits["train"], "test": splits["test"]}
    if validation:
        parts["val"] = splits[validation[0]]
    classes = tuple(parts["train"].features[label].names)
    for name, part in parts.items():
        if part.features.get(label) != parts["train"].features[label]:
            raise DataError(f"{root}: the classes of {name} are not those of train.")
    images = HubImages([_undecoded(part, image) for part in parts.values()], image)
    labels = [y for part in parts.values() for y in part.with_format(None)[label]]
    indices = consecutive({name: len(part) for name, part in parts.items()})
    rule = "the dataset's own train / val / test"
    hashes = [sha256(images.encoded(i)) for i in range(len(images))]
    if not validation:
        count = len(parts["train"])
        indices |= hold_out(labels[:count], hashes[:count])
        rule = f"its own train / test; for validation {HELD_OUT_RULE}, key: sha256 of the file"
    return classification(
        name=f"hf:{root.resolve().name}",
        images=images,
        labels=labels,
        splits=indices,
        classes=classes,
        notes={"splits": rule},
        task=label,
        digest=hashlib.sha256("\n".join(hashes).encode()),
    )


def _load(root: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            'datasets of the Hub need `datasets`: pip install "cassle-zoo[hfds]".'
        ) from error
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; download the dataset and save it to disk first.")
    try:
        if (root / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(root))
        if (root / "state.json").is_file():
            raise DataError(f"{root} is a single split; save a DatasetDict with train and test.")
        return datasets.load_dataset("imagefolder", data_dir=str(root))
    except (OSError, ValueError) as error:
        raise DataError(f"datasets cannot read {root}: {error}") from error


def _undecoded(part: Any, column: str) -> Any:
    from datasets import Image as ImageFeature

    return (
        part.with_format(None)
        .select_columns([column])
        .cast_column(column, ImageFeature(decode=False))
    )


def _only_column(part: Any, kind: str) -> str:
    found: list[str] = [
        name for name, feature in part.features.items() if type(feature).__name__ == kind
    ]
    if len(found) != 1:
        raise DataError(
            f"expected one column of type {kind}, found {first_few(found) or 'none'} among "
            f"{', '.join(part.features)}."
        )
    return found[0]
