"""Random access to images in a list of files, and to files in a tar archive."""

import functools
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from torch.utils.data import Dataset

from cassle_zoo.common.bands import open_channels
from cassle_zoo.common.errors import DataError

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; areas outside the image are black."""


class ImageFiles(Dataset[tuple[Any, int]]):
    """Images by file name. Picklable; opens files only while it reads them.

    Attributes:
        root: Folder that the names are relative to.
        names: Names of the files, with forward slashes.
        labels: Label of each; by default its index.
        boxes: If given, the part of each that is used.
        channels: Number of channels that they are read with.
        notes: Warnings for the user about how the files were found.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        *,
        labels: Sequence[int] = (),
        boxes: Sequence[Box] = (),
        notes: Sequence[str] = (),
        channels: int = 3,
    ) -> None:
        """Store the attributes; no file is opened."""
        self.root = root
        self.names = tuple(names)
        self.labels = labels or range(len(names))
        self.boxes = tuple(boxes)
        self.notes = list(notes)
        self.channels = channels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return an image, as `open_channels` reads it (RGB, upright, on white), and its label.

        Raises:
            UnreadableImageError: If it cannot be read.
        """
        image: Any = open_channels(self.root / self.names[index], self.channels)
        return (image.crop(self.boxes[index]) if self.boxes else image), self.labels[index]

    def encoded(self, index: int) -> Path | None:
        """Return the file of an image; None if only a part of it is used."""
        return None if self.boxes else self.root / self.names[index]

    def filename(self, index: int) -> str:
        """Return the name of an image's file, within the root."""
        return self.names[index]


class _OpenFile:
    """An open file, closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


@functools.lru_cache(maxsize=64)
def _opened(path: Path, version: tuple[int, ...]) -> _OpenFile:
    """Open an archive, or return one of those opened last; all may be more than a process can."""
    file = _OpenFile(path)
    if _version(os.fstat(file.number)) != version:
        raise DataError(f"{str(path)!r} was changed while it was read; start again.")
    return file


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns


class TarFiles:
    """Files of an uncompressed tar archive, read in place. Picklable; safe in workers.

    Attributes:
        path: The archive.
        names: Names of the files, in the archive's order.
        notes: From :func:`find_members`.
    """

    def __init__(self, path: Path, wanted: Callable[[PurePosixPath], bool]) -> None:
        """Find the plain files that are `wanted`.

        Raises:
            DataError: If there is no such file, or see :func:`find_members`.
        """
        self.path = path
        if not path.is_file():
            is_address = str(path).split("/")[0].endswith(":")  # s3://bucket, as pathlib writes it
            advice = "addresses are not read here; copy or mount the data"
            raise DataError(
                f"cannot open {str(path)!r}: there is no such folder or archive; "
                f"{advice if is_address else 'check the path'}."
            )
        try:
            with path.open("rb") as file:
                self._version = _version(os.fstat(file.fileno()))
                self.names, self._extents, self.notes = find_members(file, str(path), wanted)
        except OSError as error:
            raise DataError(f"cannot open {str(path)!r}: {error.strerror or error}.") from error

    def read(self, index: int) -> bytes:
        """Return the content of a file.

        Raises:
            OSError: If the archive cannot be read.
            DataError: If it is another one than at first.
        """
        start, size = self._extents[index]
        # Forked processes share an open file's position, which pread does not use.
        return os.pread(_opened(self.path, self._version).number, size, start)


def find_members(
    file: Any, name: str, wanted: Callable[[PurePosixPath], bool]
) -> tuple[list[str], list[tuple[int, int]], list[str]]:
    """Find the plain files that are `wanted` in an uncompressed tar archive.

    Args:
        file: The archive, a binary file with `seek`.
        name: What to call it in messages.
        wanted: Takes the path of a member.

    Returns:
        Names, in the archive's order; position and size of each; warnings if the archive has no end
        mark, or links in place of files.

    Raises:
        DataError: If it is not a tar archive, or compressed, damaged or truncated.
    """
    names: list[str] = []
    extents: list[tuple[int, int]] = []
    notes: list[str] = []
    reason, left_out = "", 0
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        tar = tarfile.TarFile(fileobj=file)
    except (OSError, ValueError, tarfile.TarError) as error:
        raise DataError(f"cannot open {name!r} as an uncompressed tar archive: {error}.") from error
    try:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else each takes a kilobyte
            if tar.offset <= member.offset:  # older Pythons would read it again, for ever
                raise tarfile.ReadError(f"{member.name!r} has a negative size")
            if member.isdir() or not wanted(PurePosixPath(member.name)):
                continue
            if member.isfile() and not member.issparse():
                names.append(member.name)
                extents.append((member.offset_data, member.size))
            else:
                left_out += 1
    except (OSError, ValueError, tarfile.TarError) as error:
        reason = f" ({error})"
    # tarfile takes an unreadable header, or the end of the file, for the archive's end.
    end = max(tar.offset, 0)
    file.seek(end)
    mark = file.read(tarfile.BLOCKSIZE)
    if reason or mark.strip(b"\0") or end > size:
        raise DataError(
            f"the archive {name!r} is damaged or cut off after {len(names)} images, at byte "
            f"{min(end, size):,} of {size:,}{reason}; copy it again, or unpack what is "
            "whole (tar --ignore-zeros -xf) and pass the folder."
        )
    if left_out:
        notes.append(
            f"archive {name!r}: {left_out} of its files are links (or sparse), which are left out; "
            "pack it with tar --dereference --hard-dereference."
        )
    if len(mark) < tarfile.BLOCKSIZE:
        notes.append(f"archive {name!r} has no end mark: it may have been cut off.")
    return names, extents, notes
