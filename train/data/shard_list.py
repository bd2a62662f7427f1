"""Which WebDataset shards a split consists of: `_info.json`, or a pattern of names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.files import read_json

INFO_FILES = ("_info.json", "info.json")
MOST = 2**40


@dataclass(frozen=True, kw_only=True)
class ShardList:
    """The shards of a split.

    Attributes:
        files: The tar files.
        lengths: Number of images in each of them; empty if it is not stated.
        images: Number of images in an epoch.
    """

    files: tuple[Path, ...]
    lengths: tuple[int, ...]
    images: int


def list_shards(root: Path, split: str, samples: int | None) -> ShardList:
    """Find the shards of a split.

    Args:
        root: Their folder.
        split: A split of the folder's `_info.json` (`{"splits": {NAME: {"filenames": [...],
            "shard_lengths": [...], "num_samples": N}}}`, as timm writes it; one of the last two is
            enough), or a pattern of file names such as `train-{0000..0099}.tar`.
        samples: Number of images; needed if `_info.json` does not state it.

    Raises:
        DataError: If there is no such split, its description is wrong, or `samples` is more than
            it states.
    """
    path = next((root / name for name in INFO_FILES if (root / name).is_file()), None)
    splits = {} if path is None else _splits(path)
    if ".tar" in split:
        names, lengths, stated = _named(split, splits)
    elif path is None:
        raise DataError(
            f"{str(root)!r} holds no {INFO_FILES[0]} that lists its shards; write one "
            "(docs/scaling.md), or pass --data.split 'NAME-{0000..0099}.tar' and --data.samples N."
        )
    elif split not in splits:
        raise DataError(f"{str(path)!r} has no split {split!r}, only: {', '.join(splits)}.")
    else:
        try:
            names, lengths, stated = _described(splits[split])
        except ValueError as error:
            raise DataError(f"split {split!r} in {str(path)!r}: {error}.") from None
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"shard {name!r} is outside the dataset's folder, so it is not read.")
    if stated and samples is not None and samples > stated:
        raise DataError(
            f"--data.samples {samples} is more than the {stated} images that the shards state "
            "to hold; leave it out."
        )
    images = samples or stated
    if not images:
        raise DataError("the shards do not state how many images they hold: --data.samples N.")
    files = tuple(root / name for name in names)
    return ShardList(files=files, lengths=lengths, images=images)


_Description = tuple[tuple[str, ...], tuple[int, ...], int]


def _splits(path: Path) -> Mapping[str, Any]:
    try:
        splits = read_json(path).get("splits")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}.") from None
    if not isinstance(splits, dict):
        raise DataError(f"{str(path)!r} holds no object 'splits', but {str(splits)[:40]}.")
    return splits


def _described(entry: Any) -> _Description:
    if not isinstance(entry, dict):
        raise ValueError(f"it must be an object, not {str(entry)[:40]}")
    names = _list(entry, "filenames", str)
    if not names:
        raise ValueError("'filenames' must list its shards")
    lengths = _list(entry, "shard_lengths", int)
    if lengths and (len(lengths) != len(names) or not all(0 <= n <= MOST for n in lengths)):
        raise ValueError("'shard_lengths' must hold the number of images of each shard")
    stated = entry.get("num_samples", sum(lengths))
    if type(stated) is not int or not 0 <= stated <= MOST:
        raise ValueError(f"'num_samples' must be a number of images, not {str(stated)[:40]}")
    if lengths and stated != sum(lengths):
        raise ValueError(
            f"'num_samples' is {stated}, but its 'shard_lengths' add up to {sum(lengths)}"
        )
    return tuple(names), tuple(lengths), stated


def _list(entry: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    values = entry.get(key, [])
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise ValueError(f"{key!r} must be a list of {kind.__name__}, not {str(values)[:40]}")
    return values


def _named(pattern: str, splits: Mapping[str, Any]) -> _Description:
    from webdataset.shardlists import expand_urls

    names = tuple(expand_urls(pattern))
    known: dict[str, int] = {}
    for entry in splits.values():
        try:
            there, lengths, _ = _described(entry)
        except ValueError:
            continue
        known |= dict(zip(there, lengths, strict=False))
    if not known.keys() >= set(names):
        return names, (), 0
    found = tuple(known[name] for name in names)
    return names, found, sum(found)
