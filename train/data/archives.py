"""Images in an uncompressed tar archive, read in place."""

import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from PIL import Image
from timm.utils.misc import natural_key as _natural_key
from torch.utils.data import Dataset

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import image_endings, open_image


class TarImages(Dataset[tuple[Image.Image, int]]):
    """All images of a tar archive: the same files that count as images in a folder.

    Attributes:
        path: The archive.
        notes: A line if the archive has no end mark.
    """

    def __init__(self, path: Path) -> None:
        """Find the images; an image's label is the number of its folder's name.

        Raises:
            DataError: If it is no tar archive, is compressed, damaged or cut off, or holds no
                images.
        """
        self.path = path
        self.notes: list[str] = []
        if not path.is_file():
            raise DataError(f"cannot open {str(path)!r}: there is no such folder or archive.")
        self._members: list[tuple[str, int, int]] = []
        try:
            with tarfile.open(path, "r:") as tar:
                self._find(tar)
        except (OSError, ValueError, tarfile.TarError) as error:
            raise DataError(
                f"cannot open {str(path)!r} as an uncompressed tar archive: {error}. Unpack it and "
                "pass the folder; data of another kind need their --data.dataset."
            ) from error
        if not self._members:
            raise DataError(f"the archive {str(path)!r} holds no images.")
        self._members.sort(key=lambda member: _natural_key(member[0]))  # type: ignore[no-untyped-call]
        folders = [PurePosixPath(name).parent.name for name, _, _ in self._members]
        names = sorted(set(folders), key=_natural_key)
        labels = {name: label for label, name in enumerate(names)}
        self._labels = [labels[folder] for folder in folders]
        self._file: BinaryIO | None = None

    def _find(self, tar: tarfile.TarFile) -> None:
        """Note name, first byte and size of each image, and whether the archive is whole."""
        endings = image_endings()
        size, reason = self.path.stat().st_size, ""
        try:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else each takes a kilobyte
                path = PurePosixPath(member.name)
                hidden = any(part.startswith(".") and part != ".." for part in path.parts)
                plain = member.isfile() and not member.issparse()
                if plain and not hidden and path.suffix.lower() in endings:
                    self._members.append((member.name, member.offset_data, member.size))
        except (OSError, ValueError, tarfile.TarError) as error:
            reason = f" ({error})"
        # For tarfile a header that it cannot read is the archive's end, and so is the file's end.
        with self.path.open("rb") as file:
            file.seek(tar.offset)
            mark = file.read(tarfile.BLOCKSIZE)
        if reason or (mark.strip(b"\0") or tar.offset > size):
            raise DataError(
                f"the archive {str(self.path)!r} is damaged or cut off after {len(self._members)} "
                f"images, at byte {min(tar.offset, size):,} of {size:,}{reason}; copy it again, "
                "or unpack what is whole (tar --ignore-zeros -xf) and pass the folder."
            )
        if len(mark) < tarfile.BLOCKSIZE:
            self.notes.append(
                f"archive {str(self.path)!r} has no end mark: it may have been cut off."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file out: each process opens its own."""
        return {**self.__dict__, "_file": None}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._members)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image and its label.

        Raises:
            UnreadableImageError: If it cannot be decoded.
            OSError: If the archive cannot be read.
        """
        _, start, size = self._members[index]
        if self._file is None:
            self._file = self.path.open("rb")
        # Processes that were forked share an open file's position; pread does not use it.
        return open_image(os.pread(self._file.fileno(), size, start)), self._labels[index]

    def filename(self, index: int) -> str:
        """Return the name of the image's file, within the archive."""
        return self._members[index][0]
