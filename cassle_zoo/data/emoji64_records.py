"""The rows of emoji64's ``metadata.csv``: one record per image."""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

from cassle_zoo.common.errors import DataError

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
        source: What to call the file in error messages.

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
    """Write ``metadata.csv``: what :func:`parse_metadata` reads."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(METADATA_COLUMNS)
    writer.writerows(astuple(record) for record in records)
    return out.getvalue()


def _record(row: dict[str, str | None], where: str) -> Record:
    values = {name: row[name] for name in METADATA_COLUMNS}
    complete = {name: value for name, value in values.items() if value}
    if len(complete) != len(values):
        empty = ", ".join(name for name in values if name not in complete)
        raise DataError(f"{where}: no value for {empty}.")
    for name, allowed in _ALLOWED.items():
        if complete[name] not in allowed:
            options = ", ".join(allowed)
            raise DataError(f"{where}: {name} is {complete[name]!r}, expected one of {options}.")
    return Record(**complete)
