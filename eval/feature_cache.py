"""The cache of extracted features on disk, and features matched from a file."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.common.files import sha256, write_bytes
from cassle_zoo.features.extract import FeatureSet

CACHE_VARIABLE = "CASSLE_ZOO_CACHE"
_FORMAT = "1"


def cache_folder() -> Path:
    """Return `$CASSLE_ZOO_CACHE`, or `cassle_zoo/features` in the user's cache folder.

    Raises:
        ConfigError: If neither is set and the user has no home folder, as in some containers.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise ConfigError(
            "the user has no home folder (HOME is not set); pass --cache DIR or set "
            f"{CACHE_VARIABLE}; --no-cache needs no folder."
        ) from None
    return Path(base) / "cassle_zoo" / "features"


def cached_features(folder: Path, key: Sequence[str], extract: Callable[[], Tensor]) -> Tensor:
    """Return the features cached under `key`, extracting and caching them if there are none.

    Args:
        folder: The cache, created if it does not exist.
        key: Everything the features depend on: hashes of weights and data, the transform, ...
        extract: Computes the features.

    Returns:
        The features, bit for bit as extracted. A damaged file is replaced.

    Warns:
        UserWarning: If the features cannot be cached, for example because the disk is full.
    """
    text = "\n".join([_FORMAT, *key])
    path = folder / f"{sha256(text)}.safetensors"
    if path.is_file():
        try:
            return load_file(path)["features"]
        except (SafetensorError, KeyError):
            path.unlink(missing_ok=True)
    features = extract().contiguous()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({"features": features}))
    except OSError as error:  # no reason to lose features that took hours
        reason = error.strerror or error
        warnings.warn(f"cannot cache features in {folder}: {reason}.", stacklevel=2)
    return features


def features_of(
    known: FeatureSet, names: Sequence[str], count: int, root: Path | None = None
) -> tuple[Tensor, dict[int, str]]:
    """Pick the features of the images of a dataset from those of a file.

    The images must be in one folder under the names they have in the dataset. If that folder is
    on this machine, it must be the dataset's, since other data often have the same names.

    Args:
        known: Features with their sources, in any order; there may be others among them.
        names: Names of the images, relative to the dataset. If empty, the file must hold exactly
            the images, in their order.
        count: Number of images N.
        root: Folder of the dataset; None if it is not in a folder.

    Returns:
        Features (N, D) without those that the file says could not be read, and by the index of each
        of these, why.

    Raises:
        DataError: If another image has no features or one has several, or they are from other data.
    """
    if not names:
        if len(known) != count:
            raise DataError(
                f"the file has features of {len(known)} images, the dataset has {count}, and "
                "without names they can only be matched by their order."
            )
        return known.features, {}
    found = _by_folder([*known.sources, *(own.source for own in known.skipped)], names)
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
    # A folder that is gone, or relative to an unknown one, cannot be compared.
    if root is not None and folder and Path(folder).is_dir() and not _is_same(Path(folder), root):
        raise DataError(
            f"the file has features of the images in {folder}, which is another folder than the "
            f"dataset's, {root}; their names are alike, but they may be other images. Extract "
            "features of the dataset's folder."
        )
    places, count = [found[folder][name] for name in names], len(known)
    unread = {i: known.skipped[at - count].reason for i, at in enumerate(places) if at >= count}
    return known.features[[at for at in places if at < count]], unread


def _by_folder(sources: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the row of each name, by the folder that the names are relative to."""
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
