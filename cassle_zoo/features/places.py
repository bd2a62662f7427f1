"""Places that hold images: files, folders, patterns, lists, tar archives, datasets, addresses.

Each becomes a `Source`, which knows the names of its images and opens none before it is read.
"""

import glob
import importlib
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeAlias

from PIL import Image

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError, reason_of
from cassle_zoo.common.images import UnreadableImageError, image_endings
from cassle_zoo.data.listing import counts_as_image, list_images, walk
from cassle_zoo.data.readers import TarFiles, find_members
from cassle_zoo.data.saved import has_splits, image_columns, is_saved, load_saved, undecoded
from cassle_zoo.data.tables import PATH_COLUMNS, TABLES, read_rows, unmarked

OnSkip: TypeAlias = Callable[[str, str], None]
"""Takes the name of something that is left out, and the reason."""

_Wanted: TypeAlias = Callable[[PurePosixPath], bool]

STDIN = "-"
_LISTS = (".txt", ".lst", *TABLES)
_PATH_COLUMNS = (*PATH_COLUMNS, "source", "url")
_ARCHIVES = (".zip", ".tgz", ".gz", ".xz", ".bz2", ".7z", ".zst")
# What HTTP and S3 answer about one file; other answers concern the next file, too, or pass.
_STATUSES = frozenset(range(400, 500)) - {401, 407, 408, 425, 429}
_CODES = frozenset({"403", "404", "AccessDenied", "InvalidObjectState", "NoSuchKey"})
_OF_ONE_FILE = (FileNotFoundError, PermissionError, IsADirectoryError)
_BRACES = re.compile(r"\{[^{}]*(,|\.\.)[^{}]*\}")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*(://|::)", re.IGNORECASE)
# fsspec fills in templates that such a file holds; older versions let them run anything.
_REFERENCE = re.compile(r"(^|::)reference(:|$)", re.IGNORECASE)


class Lazy(ABC):
    """An image that is stored somewhere."""

    @abstractmethod
    def read(self) -> Any:
        """Return it in any form that images have in Python.

        Raises:
            UnreadableImageError: It cannot be read.
        """


class Source(Protocol):
    """Some of the images of an input; cheap to store, whatever their number."""

    @property
    def in_threads(self) -> bool:
        """Whether several threads may read its images at once."""

    def __len__(self) -> int:
        """Return the number of images."""

    def item(self, index: int) -> tuple[str, Any]:
        """Return an image's name, and its path, the image itself, or a `Lazy` that reads it."""


@dataclass(frozen=True)
class Files:
    """Local files, or remote ones if their names are addresses."""

    paths: list[str]
    in_threads = True

    def __len__(self) -> int:
        return len(self.paths)

    def item(self, index: int) -> tuple[str, Any]:
        """Return a file's name, and its path or a `RemoteFile`."""
        path = self.paths[index]
        return path, RemoteFile(path) if is_address(path) else path


@dataclass(frozen=True)
class RemoteFile(Lazy):
    """A file at an fsspec address, such as `s3://bucket/a.jpg`, or the bytes from start to end."""

    address: str
    start: int | None = None
    end: int | None = None

    def read(self) -> bytes:
        """Return its content.

        Raises:
            UnreadableImageError: It is not there, or may not be read.
            DataError: The place cannot be reached; other images would fail as well.
        """
        fs, path = _open_address(self.address)
        try:
            content: bytes = fs.cat_file(path, start=self.start, end=self.end)
        except Exception as error:
            if _concerns_one_file(error):
                raise UnreadableImageError(self.address, _reason(error)) from error
            raise DataError(f"cannot read {self.address!r}: {_reason(error)}.") from error
        if self.end is not None and len(content) > self.end - (self.start or 0):
            return content[self.start : self.end]  # of a web server that sends whole files only
        return content


def _concerns_one_file(error: Exception) -> bool:
    answer = getattr(error.__cause__, "response", None)
    if isinstance(answer, dict) and "Error" in answer:
        # Of S3: for s3fs, credentials that expired are a PermissionError as well.
        return answer["Error"].get("Code") in _CODES
    return isinstance(error, _OF_ONE_FILE) or getattr(error, "status", None) in _STATUSES


class _RemoteTar:
    """A tar file at an address; has what `TarFiles` has."""

    def __init__(self, address: str, fs: Any, path: str, wanted: _Wanted) -> None:
        self.address = address
        with fs.open(path) as file:
            self.names, self.extents, self.notes = find_members(file, address, wanted)

    def read(self, index: int) -> bytes:
        start, size = self.extents[index]
        return RemoteFile(self.address, start, start + size).read() if size else b""


@dataclass(frozen=True)
class _TarMember(Lazy):
    tar: TarFiles | _RemoteTar
    index: int

    def read(self) -> bytes:
        try:
            return self.tar.read(self.index)
        except OSError as error:
            raise UnreadableImageError(self.tar.names[self.index], _reason(error)) from error


@dataclass(frozen=True)
class _Tar:
    tar: TarFiles | _RemoteTar
    in_threads = True

    def __len__(self) -> int:
        return len(self.tar.names)

    def item(self, index: int) -> tuple[str, Any]:
        tar, name = self.tar, self.tar.names[index]
        if isinstance(tar, _RemoteTar):
            return f"tar://{name}::{tar.address}", _TarMember(tar, index)
        return f"{tar.path}/{name}", _TarMember(tar, index)


@dataclass(frozen=True)
class Items:
    """The items of a map-style dataset."""

    name: str
    dataset: Any
    column: str
    in_threads = False

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, index: int) -> tuple[str, Any]:
        """Return an item's place in the dataset, and an `_Item` that reads it."""
        name = f"{self.name}[{index}]"
        return name, _Item(name, self.dataset, index, self.column)


@dataclass(frozen=True)
class _Item(Lazy):
    name: str
    dataset: Any
    index: int
    column: str

    def read(self) -> Any:
        # What Pillow raises for broken files; other errors are mistakes in the dataset's code.
        try:
            return without_label(self.dataset[self.index], self.column)
        except (OSError, SyntaxError, DataError, Image.DecompressionBombError) as error:
            raise UnreadableImageError(self.name, str(error)) from error


def without_label(item: Any, column: str) -> Any:
    """Return the image of a dataset's item."""
    if isinstance(item, Mapping):
        item = item.get(column, item)
    if isinstance(item, Mapping) and {"bytes", "path"} <= item.keys():  # of Hugging Face
        return item["bytes"] or item["path"]
    return item[0] if isinstance(item, tuple | list) and item else item


def find_images(
    path: str | os.PathLike[str], skip: OnSkip, column: str | None = None
) -> list[Source]:
    """Find the images that a path names.

    Args:
        path: A file; a folder, also of tar files only, or of a dataset that the package `datasets`
            saved; a pattern such as `photos/**/*.jpg` or `train-{000..099}.tar`; a tar file, such
            as a WebDataset shard; a list of paths in a .txt, .lst, .csv or .tsv file, or, if `-`,
            on standard input, separated by newlines or zero bytes; or the fsspec address of a file,
            a folder, a pattern or a tar file. Paths in a list are relative to the current folder or
            to the list's, wherever the first one that exists is found.
        skip: Called with what is left out.
        column: The image column of a .csv or .tsv list, or of a dataset; by default recognised by
            its name or type.

    Raises:
        DataError: There is nothing there, it cannot be opened, or the path is empty.
        ConfigError: It is not clear which column is meant.
        MissingDependencyError: A package that is needed is not installed.
    """
    text = os.fspath(path)
    if not text:  # an unset variable or an empty cell, which pathlib takes for the current folder
        raise DataError("a path is empty; the current folder is '.'.")
    if text == STDIN:
        return [Files(_entries(sys.stdin.buffer.read()))]
    if os.path.lexists(text):
        return _at(text, skip, column)
    if "::" not in text and _BRACES.search(text) and (shards := _expand_braces(text)) != [text]:
        return [found for shard in shards for found in find_images(shard, skip, column)]
    if is_address(text):
        return _at_address(text, skip)
    if glob.has_magic(text):
        return _matching(text, skip, column)
    return [Files([str(file) for file in list_images(text)])]  # its error says what is wrong


def is_address(path: str) -> bool:
    """Return whether a path is an fsspec address, such as `s3://bucket/a.jpg`."""
    return _ADDRESS.match(path) is not None and not os.path.lexists(path)


def _at(path: str, skip: OnSkip, column: str | None) -> list[Source]:
    if os.path.isdir(path):
        return _in_folder(path, skip, column)
    ending = os.path.splitext(path)[1].lower()
    if ending == ".tar":
        return _in_tar(path, skip, partial(TarFiles, Path(path)))
    if ending in _ARCHIVES:
        skip(path, "an archive: unpack it and give the folder")
        return []
    if ending == ".parquet":
        skip(
            path,
            "a Parquet table: save its column of paths as .csv or, if it holds the images, "
            "open it with the package datasets and give what `save_to_disk` writes",
        )
        return []
    return _in_list(path, skip, column) if ending in _LISTS else [Files([path])]


def _in_folder(folder: str, skip: OnSkip, column: str | None) -> list[Source]:
    if has_splits(Path(folder)):
        splits = [repr(split) for split, _ in walk(folder, set())][1:]
        raise DataError(
            f"{folder!r} holds several splits of a dataset; give the folder of one of them: "
            f"{', '.join(splits)}."
        )
    if is_saved(Path(folder)):
        dataset = load_saved(Path(folder))[""]
        name = image_column(dataset, column)
        return [Items(folder, undecoded(dataset, name), name)]
    said: list[str] = []

    def note(name: object, reason: str) -> None:
        said.append(reason)
        skip(str(name), reason)

    files = list_images(folder, on_error=note, on_unread=lambda text: note(folder, text))
    if files:
        return [Files([str(file) for file in files])]
    _, names = next(walk(folder, set()), ("", []))
    if shards := [os.path.join(folder, name) for name in names if name.endswith(".tar")]:
        return [found for shard in shards for found in _at(shard, skip, column)]
    if not said:
        skip(folder, "the folder holds no images")
    return []


def _in_tar(
    path: str, skip: OnSkip, opened: Callable[[_Wanted], TarFiles | _RemoteTar]
) -> list[Source]:
    endings = image_endings()
    try:
        tar = opened(lambda member: counts_as_image(member.parts, endings))
    except DataError as error:
        skip(path, f"{str(error).rstrip('.')}; if it is of another kind, unpack it")
        return []
    for note in tar.notes:
        skip(path, note.rstrip("."))
    if not tar.names:
        skip(path, "the archive holds no images")
    return [_Tar(tar)]


def _matching(pattern: str, skip: OnSkip, column: str | None) -> list[Source]:
    matches = sorted(_glob(pattern), key=lambda match: Path(match).parts)
    if "**" in pattern:
        matches = [match for match in matches if not os.path.isdir(match)]
    if glob.has_magic(os.path.splitext(pattern)[1]) or not os.path.splitext(pattern)[1]:
        endings = image_endings()
        kept = (m for m in matches if os.path.isdir(m) or counts_as_image((Path(m).name,), endings))
        matches = list(kept)
    if not matches:
        raise DataError(
            f"no image matches {pattern!r}; check its folder and ending, or give the folder itself."
        )
    return [found for match in matches for found in _at(match, skip, column)]


def _glob(pattern: str) -> set[str]:
    """Return what matches a pattern with `**`, entering each folder once.

    `glob.glob` follows a link to a folder above it 40 times, and two of them almost for ever.
    """
    parts = Path(pattern).parts
    deep = parts.index("**") if "**" in parts else len(parts)
    if deep == len(parts):
        return set(glob.glob(pattern))
    above, below = parts[:deep], tuple(dropwhile("**".__eq__, parts[deep:])) or ("*",)
    entered: set[tuple[int, int]] = set()
    bases = sorted(glob.glob(os.path.join(*above, ""))) if above else [""]
    folders = [folder for base in bases for folder, _ in walk(base, entered)]
    return {
        match for folder in folders for match in _glob(os.path.join(glob.escape(folder), *below))
    }


def _in_list(path: str, skip: OnSkip, column: str | None) -> list[Source]:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        skip(path, _reason(error))
        return []
    is_table = path.lower().endswith(TABLES)
    entries = _cells(path, content, skip, column) if is_table else _entries(content)
    beside = Path(path).parent
    for entry in entries:
        if is_address(entry) or os.path.lexists(entry):
            return [Files(entries)]
        if os.path.lexists(beside / entry):
            return [Files([e if is_address(e) else str(beside / e) for e in entries])]
    nowhere = "a list of image files, but none of them exists, such as"
    skip(path, f"{nowhere} {entries[0]!r:.99}" if entries else "an empty list")
    return []


def _entries(content: bytes) -> list[str]:
    content = unmarked(content)
    separator = b"\0" if b"\0" in content else b"\n"
    lines = (line.removesuffix(b"\r") for line in content.split(separator))
    return [os.fsdecode(line) for line in lines if line.strip()]


def _cells(path: str, content: bytes, skip: OnSkip, column: str | None) -> list[str]:
    rows = [row for _, row in read_rows(path, os.fsdecode(unmarked(content)))]
    if not rows:
        return []
    head = [cell.strip() for cell in rows[0]]
    wanted = (column,) if column is not None else _PATH_COLUMNS
    named = [i for name in wanted for i, cell in enumerate(head) if cell.lower() == name.lower()]
    if named:
        number, rows = named[0], rows[1:]
    elif column is None and len(head) == 1:
        number = 0
    else:
        asked = repr(column) if column is not None else "that is called path or file"
        raise ConfigError(
            f"{path!r} has no column {asked}; its columns are {', '.join(head)}: pass "
            "--column NAME (column=)."
        )
    entries = [row[number] for row in rows if number < len(row) and row[number].strip()]
    if len(entries) < len(rows):
        skip(path, f"{len(rows) - len(entries)} of {len(rows)} rows have no path")
    return entries


def image_column(dataset: Any, column: str | None = None) -> str:
    """Return the image column of a dataset of the package `datasets`.

    Args:
        dataset: The dataset.
        column: The column that is wanted.

    Raises:
        ConfigError: There is no such column, or not exactly one image column.
    """
    features, found = dataset.features, image_columns(dataset)
    if column is not None:
        found = [column] if column in features else []
    if len(found) != 1:
        asked = f"no column {column!r}" if column is not None else f"{len(found)} columns of images"
        raise ConfigError(
            f"the dataset has {asked}; its columns are {', '.join(features)}: pass --column NAME "
            "(column=)."
        )
    return found[0]


def _at_address(address: str, skip: OnSkip) -> list[Source]:
    endings = image_endings()
    ending = os.path.splitext(address.partition("::")[0])[1].lower()
    fs, path = _open_address(address)
    try:
        # As on disk, what exists is not a pattern: a URL's query begins with a question mark.
        if glob.has_magic(path) and not fs.exists(path):
            return _matching_at(address, fs, path, skip)
        elif ending == ".tar":
            return _in_tar(address, skip, partial(_RemoteTar, address, fs, path))
        elif ending not in endings and fs.isdir(path):
            names = sorted(fs.find(path), key=lambda name: PurePosixPath(name).parts)
        elif fs.exists(path):
            return [Files([address])]
        else:
            raise FileNotFoundError(2, "No such file or directory")
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"cannot open {address!r}: {_reason(error)}.") from error
    start = len(PurePosixPath(path).parts)
    names = [n for n in names if counts_as_image(PurePosixPath(n).parts[start:] or (n,), endings)]
    if not names:
        skip(address, "no images are there")
    return [Files([_whole(fs, name, address) for name in names])]


def _matching_at(pattern: str, fs: Any, path: str, skip: OnSkip) -> list[Source]:
    parts, shards = PurePosixPath(path).parts, path.lower().endswith(".tar")
    start = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    endings = frozenset({".tar"}) if shards else image_endings()
    matches = fs.glob(path, detail=True)
    sources: list[Source] = []
    for name in sorted(matches, key=lambda name: PurePosixPath(name).parts):
        inside = PurePosixPath(name).parts[start:] or (name,)
        if matches[name].get("type") == "directory":
            if "**" not in parts and not any(part.startswith(".") for part in inside):
                sources += _at_address(_whole(fs, name, pattern), skip)
        elif counts_as_image(inside, endings):
            whole = _whole(fs, name, pattern)
            sources += _at_address(whole, skip) if shards else [Files([whole])]
    if not sources:
        skip(pattern, "no images are there")
    return sources


def _whole(fs: Any, name: str, address: str) -> str:
    inside, chained, outside = address.partition("::")
    whole: str = fs.unstrip_protocol(name)
    return f"{whole}{chained}{outside}" if chained and "://" in inside else whole


def _open_address(address: str) -> tuple[Any, str]:
    if _REFERENCE.search(address):
        raise DataError(
            f"{address!r} is not read: a file of references can run code. Give the addresses of "
            "the images themselves."
        )
    try:
        core = importlib.import_module("fsspec.core")
        fs, path = core.url_to_fs(address)
    except ImportError as error:
        raise MissingDependencyError(
            f"{address!r} needs another package ({error}): pip install 'cassle-zoo[remote]' for "
            "s3://; https://filesystem-spec.readthedocs.io lists those of other addresses."
        ) from error
    except Exception as error:
        raise DataError(f"cannot open {address!r}: {_reason(error)}.") from error
    return fs, path


def _expand_braces(pattern: str) -> list[str]:
    try:
        shardlists = importlib.import_module("webdataset.shardlists")
    except ImportError as error:
        raise MissingDependencyError(
            f"the pattern {pattern!r} needs webdataset: pip install 'cassle-zoo[wds]'."
        ) from error
    return list(shardlists.expand_urls(pattern))


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"  # fsspec's have the path only
    return reason_of(error)
