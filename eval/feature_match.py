"""Finds the features of the images of a dataset in a file of features."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from torch import Tensor

from cassle_zoo.common.errors import DataError
from cassle_zoo.features.extract import FeatureSet


def features_of(
    known: FeatureSet, names: Sequence[str], count: int, root: Path | None = None
) -> Tensor:
    """Pick the features of the images of a dataset from those of a file.

    The images must lie below one folder under just the names they have in the dataset, and if
    that folder is on this machine, it must be the dataset's: other data often have equal names.

    Args:
        known: Features with their sources, in any order; others may be among them.
        names: Names of the images, relative to the dataset. If empty, the file must hold just
            the images, in their order.
        count: Number of images N.
        root: Folder of the dataset; None if it is none.

    Returns:
        Features (N, D).

    Raises:
        DataError: If an image has no features or several, or they are of other data.
    """
    if not names:
        if len(known) != count:
            raise DataError(
                f"the file has features of {len(known)} images, the dataset has {count}, and "
                "without names they can only be matched by their order."
            )
        return known.features
    found = _by_folder(known.sources, names)
    complete = [folder for folder, rows in found.items() if len(rows) == len(set(names))]
    if root is not None and len(complete) > 1:
        complete = [folder for folder in complete if _is_same(Path(folder), root)] or complete
    if not complete:
        rows = max(found.values(), key=len, default={})
        missing = [name for name in names if name not in rows]
        own = f"its own begin with {known.sources[0]!r}" if known.sources else "it is empty"
        raise DataError(
            f"the file has no features of {len(missing)} of {count} images, the first is "
            f"{missing[0]!r}; {own}. All must be below one folder under these names: give "
            "`cassle-zoo features` the folder that --data names."
        )
    if len(complete) > 1:
        raise DataError(
            f"the file has features of such images in {len(complete)} folders: "
            f"{', '.join(map(repr, complete))}; extract those of one dataset."
        )
    folder = complete[0]
    # Of folders that are gone, or relative to who knows where, nothing can be told.
    if root is not None and folder and Path(folder).is_dir() and not _is_same(Path(folder), root):
        raise DataError(
            f"the file has features of the images in {folder}, which is another folder than the "
            f"dataset's, {root}; their names are alike, but whether they are the same images "
            "cannot be told. Extract features of the dataset's folder."
        )
    return known.features[[found[folder][name] for name in names]]


def _by_folder(sources: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the rows of images by name, by the folder that the names are relative to."""
    depths = {name.count("/") + 1 for name in names}
    wanted = set(names)
    found: dict[str, dict[str, int]] = {}
    for row, source in enumerate(sources):
        parts = PurePath(source).parts
        for depth in depths:
            name = "/".join(parts[-depth:])
            if name not in wanted or depth > len(parts):
                continue
            folder = str(PurePath(*parts[:-depth])) if depth < len(parts) else ""
            if name in found.setdefault(folder, {}):
                raise DataError(f"the file has features of two images {source!r}.")
            found[folder][name] = row
    return found


def _is_same(folder: Path, root: Path) -> bool:
    return folder.is_dir() and folder.samefile(root)
