"""emoji64: 10,944 emoji images (64x64 RGB on white) of three vendors, with labels.

Small, real and openly licensed; its tasks show which information self-supervised learning
preserves and which it discards. `cassle_zoo.data.emoji64_build` builds the data from npm packages;
`cassle_zoo.eval.datasets.emoji64` defines the tasks.
"""

import csv
import hashlib
import io
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property, partial
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.readers import TarFiles

METADATA_FILE = "metadata.csv"
EMOJI64_SHA256 = "7435a21e3b7823dbc28eca8f7bd0021deed3c92dcad0c2971430f42fe947a679"
"""`Emoji64.sha256` of the published dataset."""

HOW_TO_GET = (
    "emoji64 is either the file emoji64.tar or the folder it unpacks to; build it with "
    "`python -m cassle_zoo.data.emoji64_build` (its --help says how)."
)
VENDORS: tuple[str, ...] = ("noto", "twemoji", "fluent3d")
SKIN_TONES: tuple[str, ...] = ("light", "medium-light", "medium", "medium-dark", "dark")
SPLITS: tuple[str, ...] = ("train", "test")

_ALLOWED = {"vendor": VENDORS, "skin_tone": ("none", *SKIN_TONES, "mixed"), "split": SPLITS}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of emoji64; field order is the column order of ``metadata.csv``.

    Attributes:
        file_name: Path in the dataset, with forward slashes.
        vendor: Who drew it, one of :data:`VENDORS`.
        unified: Code points, hexadecimal, joined by ``-``.
        base: Code points without the skin tone; the train/test split is by base.
        name: Unicode name.
        category: Unicode category.
        subcategory: Unicode subcategory.
        skin_tone: ``none``, one of :data:`SKIN_TONES`, or ``mixed``.
        split: One of :data:`SPLITS`.
    """

    file_name: str
    vendor: str
    unified: str
    base: str
    name: str
    category: str
    subcategory: str
    skin_tone: str
    split: str


METADATA_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Record))


def parse_metadata(text: str, source: str) -> tuple[Record, ...]:
    """Read the content of ``metadata.csv``.

    Args:
        text: Content of the file.
        source: Name of the file in error messages.

    Returns:
        The records, in file order.

    Raises:
        DataError: If columns are missing, or a row is incomplete or has an unknown value.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in METADATA_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{source}: not emoji64 metadata, it has no column {', '.join(missing)}.")
    records = tuple(_record(row, f"{source}, line {reader.line_num}") for row in reader)
    if not records:
        raise DataError(f"{source}: lists no images.")
    return records


def format_metadata(records: Iterable[Record]) -> str:
    """Return the content of ``metadata.csv``, which :func:`parse_metadata` reads."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(METADATA_COLUMNS)
    writer.writerows(astuple(record) for record in records)
    return out.getvalue()


def _record(row: dict[str, str | None], where: str) -> Record:
    values = {name: row[name] or "" for name in METADATA_COLUMNS}
    if empty := [name for name, value in values.items() if not value]:
        raise DataError(f"{where}: no value for {', '.join(empty)}.")
    for name, allowed in _ALLOWED.items():
        if values[name] not in allowed:
            options = ", ".join(allowed)
            raise DataError(f"{where}: {name} is {values[name]!r}, expected one of {options}.")
    return Record(**values)


class Emoji64(Dataset[tuple[Image.Image, int]]):
    """Images with the labels of their subcategories. Picklable; safe in DataLoader workers.

    Attributes:
        records: Facts about each image, in the order of the index.
        classes: The subcategories, sorted.
        targets: Label of each image, which pretraining uses for its k-NN monitor only.
    """

    def __init__(self, records: Sequence[Record], read: Callable[[str], bytes]) -> None:
        """Use :meth:`open` instead."""
        self.records = tuple(records)
        self.classes = tuple(sorted({record.subcategory for record in records}))
        number = {name: index for index, name in enumerate(self.classes)}
        self.targets = [number[record.subcategory] for record in records]
        self._read = read

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Emoji64":
        """Open the dataset.

        Args:
            path: ``emoji64.tar`` or the folder it was unpacked to.

        Returns:
            The whole dataset, in the order of its metadata.

        Raises:
            DataError: If there is nothing at `path`, it is not emoji64, or files are missing.
        """
        path = Path(path)
        names, read = _open_storage(path)
        if METADATA_FILE not in names:
            raise DataError(f"{path} has no {METADATA_FILE}. {HOW_TO_GET}")
        try:
            text = read(METADATA_FILE).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: {METADATA_FILE} is not UTF-8 text: {error}") from error
        records = parse_metadata(text, f"{path}: {METADATA_FILE}")
        missing = [record.file_name for record in records if record.file_name not in names]
        if missing:
            raise DataError(
                f"{path} is incomplete: {len(missing)} of {len(records)} images are missing, "
                f"the first is {missing[0]}. {HOW_TO_GET}"
            )
        return cls(records, read)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image (64x64 RGB) and the label of its subcategory."""
        return self.image(index), self.targets[index]

    def filename(self, index: int) -> str:
        """Return the name of the image's file, within the dataset."""
        return self.records[index].file_name

    def image(self, index: int) -> Image.Image:
        """Return image `index` (RGB).

        Raises:
            DataError: If the file cannot be read or decoded; names the file.
        """
        name = self.records[index].file_name
        try:
            with Image.open(io.BytesIO(self._read(name))) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"emoji64: cannot read {name}: {error}") from error

    def subset(self, mask: Sequence[bool]) -> "Emoji64":
        """Return the images for which `mask` (one value per image) is true."""
        chosen = [record for record, keep in zip(self.records, mask, strict=True) if keep]
        return Emoji64(chosen, self._read)

    @cached_property
    def sha256(self) -> str:
        """Hash of records and pixels: the same for tar, folder and any lossless re-encoding."""
        digest = hashlib.sha256(format_metadata(self.records).encode())
        for index in range(len(self)):
            image = self.image(index)
            digest.update(f"{image.width}x{image.height}\n".encode())
            digest.update(image.tobytes())
        return digest.hexdigest()


def pretraining_dataset(path: str | os.PathLike[str]) -> Emoji64:
    """Open the train split of emoji64, for pretraining.

    Raises:
        DataError: See :meth:`Emoji64.open`.
    """
    data = Emoji64.open(path)
    return data.subset([record.split == "train" for record in data.records])


def _open_storage(path: Path) -> tuple[Collection[str], Callable[[str], bytes]]:
    """Return the names of the files of a folder or tar, and a picklable function to read them."""
    if path.is_dir():
        files = (*path.glob("*/*.png"), path / METADATA_FILE)
        names = {file.relative_to(path).as_posix() for file in files if file.is_file()}
        return names, partial(_read_file, path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder. {HOW_TO_GET}")
    try:
        tar = TarFiles(path, lambda _: True)
    except DataError as error:
        raise DataError(
            f"{path} is not an uncompressed tar, or is truncated ({error}) {HOW_TO_GET}"
        ) from error
    index = {name.removeprefix("./"): i for i, name in enumerate(tar.names)}
    return index, partial(_read_member, tar, index)


def _read_file(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def _read_member(tar: TarFiles, index: Mapping[str, int], name: str) -> bytes:
    return tar.read(index[name])
