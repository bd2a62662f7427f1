"""Datasets of the `datasets` library that were saved to disk (`save_to_disk`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from cassle_zoo.common.errors import DataError, MissingDependencyError
from cassle_zoo.common.images import UnreadableImageError, open_image

_SPLITS_FILE, _STATE_FILE = "dataset_dict.json", "state.json"


class SavedImages:
    """The concatenated images of several datasets; the Arrow files stay on disk."""

    def __init__(self, parts: list[Any], column: str) -> None:
        """Take datasets whose `column` is not decoded."""
        self.parts = parts
        self.column = column

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(map(len, self.parts))

    def encoded(self, index: int) -> bytes:
        """Return the encoded image: the content of a file.

        Raises:
            UnreadableImageError: There is none in the row, or the file cannot be read.
        """
        value = self._value(index)
        content: bytes | None = value["bytes"]
        try:
            return Path(value["path"]).read_bytes() if content is None else content
        except OSError as error:
            raise UnreadableImageError(value["path"], error.strerror or str(error)) from error

    def file(self, index: int) -> Path | None:
        """Return the file of an image; None if the dataset itself holds the content."""
        value = self._value(index)
        return Path(value["path"]) if value["bytes"] is None else None

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image (RGB, upright, on white) and its index."""
        return open_image(self.encoded(index)), index

    def _value(self, index: int) -> Any:
        row = index
        for part in self.parts:
            if row < len(part):
                if value := part[row][self.column]:
                    return value
                raise UnreadableImageError(f"number {index}", "there is no image in the row")
            row -= len(part)
        raise IndexError(index)


def is_saved(root: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`: one split, or several."""
    one = all((root / name).is_file() for name in (_STATE_FILE, "dataset_info.json"))
    return one or (root / _SPLITS_FILE).is_file()


def has_splits(root: Path) -> bool:
    """Return whether a saved folder has named splits."""
    return (root / _SPLITS_FILE).is_file()


def import_datasets() -> Any:
    """Import `datasets`.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            'datasets of the Hub need `datasets`: pip install "cassle-zoo[hfds]".'
        ) from error
    return datasets


def load_saved(root: Path) -> Mapping[str, Any]:
    """Open a saved folder.

    Returns:
        The splits by name; for a dataset without splits, itself under the empty name.

    Raises:
        DataError: If it cannot be read.
        MissingDependencyError: If `datasets` is not installed.
    """
    datasets = import_datasets()
    try:
        found = datasets.load_from_disk(str(root))
    except Exception as error:  # what datasets and pyarrow raise for damaged files
        reason = " ".join(str(error).split())
        raise DataError(f"datasets cannot read {root}: {reason:.300}") from error
    return dict(found) if has_splits(root) else {"": found}


def undecoded(part: Any, column: str) -> Any:
    """Return a dataset with one column only, of encoded images.

    Raises:
        DataError: If the column holds neither images nor files of images.
    """
    image = import_datasets().Image(decode=False)
    try:
        return part.with_format(None).select_columns([column]).cast_column(column, image)
    except Exception as error:  # what datasets and pyarrow raise for a column of another type
        reason = " ".join(str(error).split())
        raise DataError(f"column {column!r} does not hold images: {reason:.300}") from error


def image_columns(part: Any) -> list[str]:
    """Return the names of the columns of images; only `image` if that is one of them."""
    found = columns_of(part, "Image")
    return ["image"] if "image" in found else found


def columns_of(part: Any, kind: str) -> list[str]:
    """Return the names of the columns of a given type of `datasets`, such as `Image`."""
    return [name for name, feature in part.features.items() if type(feature).__name__ == kind]
