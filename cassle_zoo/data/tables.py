"""Tables of images (.csv, .tsv), as people, spreadsheets and Windows write them."""

import codecs
import csv
import io

from cassle_zoo.common.errors import DataError

TABLES = (".csv", ".tsv")
PATH_COLUMNS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img",
)  # fmt: skip
"""Names of the column of files, in lower case; the first that a table has counts."""


def unmarked(content: bytes) -> bytes:
    """Return the content of a text file without its byte order mark; one in UTF-16 as UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def read_rows(path: str, text: str) -> list[tuple[int, list[str]]]:
    """Return the rows of a table that are not empty, each with the number of its last line.

    A .tsv is separated by tabs, others by the first of comma, semicolon (as spreadsheets write
    where the comma is decimal) and tab that is in the first line.

    Args:
        path: Name of the file.
        text: Its content.

    Raises:
        DataError: If a cell begins with a quote that is not closed at its end, which would swallow
            rows.
    """
    delimiters = "\t" if path.lower().endswith(".tsv") else ",;\t"
    lines = io.StringIO(text, newline="")
    first = lines.readline()
    lines.seek(0)
    delimiter = next((mark for mark in delimiters if mark in first), delimiters[0])
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(
            f"{path!r}, line {reader.line_num}: {error}; a cell that begins with a quote must end "
            "with one, and quotes inside it are doubled."
        ) from error
