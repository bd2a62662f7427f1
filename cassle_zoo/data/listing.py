"""Listings of the images in a folder: which files count, and in which order."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

from cassle_zoo.common.errors import DataError, reason_of
from cassle_zoo.common.images import image_endings

_HEIC = (".heic", ".heif", ".hif")
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw")
_UNREAD = frozenset({*_HEIC, *_RAW, ".avif", ".jxl", ".exr", ".svg", ".psb"})

OnError: TypeAlias = Callable[[Path, str], None]
_CHECK = "; give the path of a file or folder that can be read."


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Images in one folder per class.

    Attributes:
        names: Files, relative to the root of the dataset, with forward slashes.
        labels: Their class numbers.
        classes: Names of the classes.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str], folders: Sequence[str], classes: Sequence[str]) -> Self:
        """Number the classes of files, given the class folder of each."""
        number = {name: index for index, name in enumerate(classes)}
        labels = tuple(number[folder] for folder in folders)
        return cls(names=tuple(names), labels=labels, classes=tuple(classes))


def list_images(
    path: str | os.PathLike[str],
    *,
    on_error: OnError | None = None,
    on_unread: Callable[[str], None] | None = None,
    endings: frozenset[str] | None = None,
) -> list[Path]:
    """List the images in a folder and its subfolders, or a single file.

    A single file is returned regardless of its ending. Within folders, files whose ending Pillow
    can read (.jpg, .png, .webp, .tif, ... in any case) count, and all others are silently left out,
    as are hidden files and folders. Symbolic links are followed, but every folder is entered only
    once, so loops end.

    Args:
        path: A folder or a file.
        on_error: Called with a folder that cannot be opened and the reason, instead of raising.
        on_unread: Called with a line about the images in the folder, such as .heic, that nothing
            installed here can read, if there are any.
        endings: Endings of the files that count, in lower case with the dot, instead of Pillow's.

    Returns:
        The files sorted by the parts of their path, the same on every machine.

    Raises:
        DataError: There is nothing at `path`, or a folder cannot be opened and `on_error` is
            not given.
    """
    root = Path(path)
    try:
        is_folder = stat.S_ISDIR(os.stat(root).st_mode)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot open {str(path)!r}: {reason_of(error)}{_CHECK}") from error
    if not is_folder:
        return [root]
    unread: Counter[str] = Counter()
    files = _files_below(root, set(), unread, on_error, endings)
    if unread and on_unread is not None:
        on_unread(_unread_text(unread))
    return files


def list_classes(
    root: Path,
    part: str = "",
    classes: Sequence[str] | None = None,
    *,
    on_unread: Callable[[str], None] | None = None,
) -> ClassFolders:
    """List `root/part/CLASS/**/IMAGE` by the rule of :func:`list_images`.

    Args:
        root: Folder of the dataset.
        part: Folder with a folder per class; files directly in it have no class and are left out.
        classes: Folders to use, in the order of their labels; by default all, sorted.
        on_unread: As for :func:`list_images`.

    Returns:
        The files sorted by class name and path, as torchvision's ImageFolder sorts them.

    Raises:
        DataError: There are no such folders, one has no images, or one cannot be opened.
    """
    folder = root / part
    try:
        entered = {_identity(folder)}
        found = sorted(n for n in os.listdir(folder) if n[0] != "." and (folder / n).is_dir())
    except OSError as error:
        raise DataError(
            f"{folder} must hold a folder of images per class: {reason_of(error)}."
        ) from error
    classes = found if classes is None else classes
    if not classes:
        raise DataError(f"{folder} must hold a folder of images per class, but holds no folders.")
    if missing := [name for name in classes if name not in found]:
        raise DataError(f"{folder} has no folders of the classes {first_few(missing)}.")
    unread: Counter[str] = Counter()
    files = {name: _files_below(folder / name, entered, unread) for name in sorted(classes)}
    if empty := [name for name, own in files.items() if not own]:
        formats = f" {_unread_text(unread)}." if unread else ""
        raise DataError(
            f"{folder} has no images of the classes {first_few(empty)} (a folder that several "
            f"links lead to counts once).{formats}"
        )
    if unread and on_unread is not None:
        on_unread(_unread_text(unread))
    names = [file.relative_to(root).as_posix() for own in files.values() for file in own]
    return ClassFolders.of(names, [name for name, own in files.items() for _ in own], classes)


def walk(
    root: str,
    entered: set[tuple[int, int]],
    on_error: Callable[[str, OSError], None] = lambda _folder, _error: None,
) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and those below it, each with the names of its files; no hidden ones.

    Args:
        root: The folder; an empty string is the current one.
        entered: Identities of folders entered before, which are left out; new ones are added.
        on_error: Called with a folder that cannot be opened, and the reason.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            identity = _identity(folder or os.curdir)
            if identity in entered:
                continue
            entered.add(identity)
            with os.scandir(folder or os.curdir) as scan:
                found = sorted((e.name, _is_folder(e)) for e in scan if e.name[0] != ".")
        except OSError as error:
            on_error(folder, error)
            continue
        yield folder, [name for name, is_folder in found if not is_folder]
        folders += [os.path.join(folder, name) for name, is_folder in reversed(found) if is_folder]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for example
        return False


def counts_as_image(parts: Sequence[str], endings: frozenset[str]) -> bool:
    """Return whether a file counts as an image: its ending is known, and it is not hidden.

    Args:
        parts: Parts of its path, below the listed folder or archive.
        endings: From :func:`cassle_zoo.common.images.image_endings`, which is slow.
    """
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return not hidden and os.path.splitext(parts[-1])[1].lower() in endings


def first_few(names: Sequence[object], most: int = 5) -> str:
    """Return the first few names for a message."""
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def _files_below(
    root: Path,
    entered: set[tuple[int, int]],
    unread: Counter[str],
    on_error: OnError | None = None,
    endings: frozenset[str] | None = None,
) -> list[Path]:
    """Return the images below a folder that are not in a folder `entered` before.

    Images of kinds that cannot be read are counted by ending in `unread`.
    """
    endings = image_endings() if endings is None else endings

    def cannot_open(folder: str, error: OSError) -> None:
        if on_error is None:
            raise DataError(f"Cannot open folder {folder!r}: {reason_of(error)}{_CHECK}") from error
        on_error(Path(folder), reason_of(error))

    found: list[Path] = []
    for folder, names in walk(str(root), entered, cannot_open):
        for name in names:
            # Broken links and the like are listed too, so that reading reports them.
            if counts_as_image((name,), endings):
                found.append(Path(folder, name))
            elif (end := os.path.splitext(name)[1].lower()) in _UNREAD:
                unread[end] += 1
    return sorted(found, key=lambda file: file.parts)


def _unread_text(unread: Counter[str]) -> str:
    counts = ", ".join(f"{count} {end}" for end, count in unread.most_common())
    heic = [end for end in unread if end in _HEIC]
    others = [end for end in unread if end not in _HEIC]
    fixes = ["pip install 'cassle-zoo[heic]'"] if heic else []
    if others:
        fixes.append(f"convert {', '.join(others)} to .jpg, .png or .tif")
    return f"{counts} not read: {'; '.join(fixes)}"


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
