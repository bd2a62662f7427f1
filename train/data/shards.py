"""WebDataset shards: tar files in which the members of one sample share a name (`7.jpg`, `7.cls`).

webdataset parses them; this module decides on their order, divides them among processes, and counts
unreadable images. Each pass starts anew from (seed, epoch), so none depends on earlier ones.
"""

import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.files import read_json
from cassle_zoo.common.images import UnreadableImageError, image_endings, open_image

INFO_FILES = ("_info.json", "info.json")
MOST = 2**40
SHUFFLED = 8192  # images in a worker's shuffle buffer, and how many fill it before it begins
FIRST_SHUFFLED = 2048
_PER_SHARD = 1 << 32
_REST = 1 << 31


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
            f"--data.samples {samples} is more than the {stated} images that the shards "
            "are stated to hold; leave it out."
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


@dataclass(frozen=True, kw_only=True)
class StreamSample:
    """A sample of a stream, not decoded yet, or an unreadable part of the stream.

    Attributes:
        number: Identifies it across epochs and processes.
        name: For messages.
        source: Input of `open_image`; None for an unreadable image, or for the unreadable rest of a
            shard.
        label: Its class, or -1.
    """

    number: int
    name: str
    source: bytes | Image.Image | None = None
    label: int = -1


class Shards(IterableDataset[tuple[Image.Image, int]]):
    """This process's images of WebDataset shards.

    Each shard is read by one worker of one process, so the order depends on the number of both.

    Attributes:
        notes: One line for each way in which the shards do not suit the run.
    """

    def __init__(self, shards: ShardList, rank: int, world_size: int, workers: int) -> None:
        """Take this process's shards.

        Raises:
            DataError: If there are fewer shards than processes.
        """
        count = len(shards.files)
        if count < world_size:
            raise DataError(
                f"{count} shard(s) cannot be divided among {world_size} processes: each needs "
                "one of its own; start fewer processes, or write more shards."
            )
        self._shards = shards
        self._rank = rank
        self._world_size = world_size
        self._names: dict[int, str] = {}
        self.notes: list[str] = []
        if workers > count // world_size:
            self.notes.append(
                f"{count} shard(s) for {world_size} process(es) with {workers} data workers each: "
                "workers without a shard have nothing to do "
                f"(--data.workers {count // world_size})."
            )
        if count % world_size:
            self.notes.append(
                f"{count} shards cannot be divided evenly among {world_size} processes: those "
                "with fewer show their images more often."
            )

    def __len__(self) -> int:
        """Return the number of images in an epoch, of all processes together."""
        return self._shards.images

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        """Yield images and labels in a fixed order; skip unreadable ones."""
        for item in self.read(0, 0, 0):
            if item.source is not None:
                try:
                    image = open_image(item.source)
                except UnreadableImageError:
                    continue
                yield image, item.label

    def read(self, seed: int, epoch: int, repeat: int) -> Iterator[StreamSample]:
        """Yield every sample of this worker's shards once, shuffled.

        Args:
            seed: Seed of the run.
            epoch: Epoch of the run.
            repeat: How often this epoch has been read before (it is repeated if images are lost).
        """
        from webdataset import shuffle

        key = f"{seed}/{epoch}/{repeat}"
        order = list(range(len(self._shards.files)))
        random.Random(key).shuffle(order)
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        own = order[self._rank :: self._world_size][worker::workers]
        rng = random.Random(f"{key}/{self._rank}/{worker}")
        yield from shuffle(SHUFFLED, initial=FIRST_SHUFFLED, rng=rng)(self._read(own))

    def _read(self, own: Sequence[int]) -> Iterator[StreamSample]:
        for shard in own:
            stated = self._shards.lengths[shard] if self._shards.lengths else 0
            count = 0
            reason = "it ends there"
            # Damaged archives raise anything, not only tarfile's errors.
            try:
                for sample in _samples(self._shards.files[shard]):
                    yield self._sample(shard, count, sample)
                    count += 1
            except MemoryError:
                raise
            except Exception as error:
                reason = _reason(error)
                stated = max(stated, count + 1)
            if count < stated:
                name = f"{self._file(shard)} from number {count} on ({reason})"
                yield StreamSample(number=shard * _PER_SHARD + _REST + count, name=name)

    def _sample(self, shard: int, index: int, sample: dict[str, Any]) -> StreamSample:
        number = shard * _PER_SHARD + index
        endings = image_endings()
        for key, content in sample.items():
            if f".{key}" in endings:
                name = f"{self._file(shard)}: {sample['__key__']}.{key}"
                return StreamSample(number=number, source=content, label=_label(sample), name=name)
        name = f"{self._file(shard)}: {sample['__key__']} (no image among its files)"
        return StreamSample(number=number, name=name)

    def _file(self, shard: int) -> str:
        return self._shards.files[shard].name

    def note(self, part: StreamSample) -> None:
        """Remember the name of a part that this process could not read."""
        self._names[part.number] = part.name

    def filename(self, number: int) -> str:
        """Return the name of an image, or of a shard whose rest was lost."""
        shard, index, rest = _place(number)
        unknown = f"{self._file(shard)} " + (
            f"from number {index} on" if rest else f"number {index}"
        )
        return self._names.get(number, unknown)

    def weight(self, number: int) -> int:
        """Return how many images are lost with the part that has this number."""
        shard, index, rest = _place(number)
        mean = self._shards.images // len(self._shards.files)
        stated = self._shards.lengths[shard] if self._shards.lengths else mean
        return max(1, stated - index) if rest else 1


def _place(number: int) -> tuple[int, int, bool]:
    """Split a number into shard and image, and whether it stands for the rest of the shard."""
    shard, index = divmod(number, _PER_SHARD)
    return shard, index % _REST, index >= _REST


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    # Opened here, since webdataset's own opener runs commands that a name contains.
    with path.open("rb") as file:
        yield from group_by_keys(tar_file_expander([{"url": str(path), "stream": file}]))


def _label(sample: dict[str, Any]) -> int:
    try:
        return max(int(sample["cls"]), -1)
    except (KeyError, ValueError):
        return -1


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # webdataset appends the open file to the message.
    text = str(error.args[0]).partition(" @ ")[0] if error.args else ""
    return text or ("not a tar archive" if isinstance(error, tarfile.TarError) else repr(error))
