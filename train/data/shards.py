"""WebDataset shards: tar files in which the members of one sample share a name (`7.jpg`, `7.cls`).

webdataset reads them; their order, how they are shared out, and the account of what cannot be read
are ours. Each reading begins anew from (seed, epoch), so none depends on what was read before.
"""

import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import UnreadableImageError, image_endings, open_image
from cassle_zoo.train.data.shard_list import ShardList

SHUFFLED = 8192  # images that a worker shuffles at a time, and after how many it begins
FIRST_SHUFFLED = 2048
_PER_SHARD = 1 << 32
_REST = 1 << 31


@dataclass(frozen=True, kw_only=True)
class ShardSample:
    """A sample of a stream, not decoded yet.

    Attributes:
        number: Identifies it, in every epoch and process.
        source: What `open_image` takes.
        label: Its class, or -1.
        name: For messages.
    """

    number: int
    source: bytes | Image.Image
    label: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What cannot be read: an image, or a shard from some image on.

    Attributes:
        number: Identifies it, in every epoch and process.
        name: For messages.
    """

    number: int
    name: str


class Shards(IterableDataset[tuple[Image.Image, int]]):
    """Images of WebDataset shards, those of this process.

    Each shard is read by one worker of one process, so the order depends on how many there are.

    Attributes:
        notes: A line on each way in which the shards do not suit the run.
    """

    def __init__(self, shards: ShardList, rank: int, processes: int, workers: int) -> None:
        """Share the shards out among the processes.

        Raises:
            DataError: If there are fewer shards than processes.
        """
        count = len(shards.files)
        if count < processes:
            raise DataError(
                f"{count} shard(s) cannot be shared out among {processes} processes: each needs "
                "one of its own; start fewer processes, or write more shards."
            )
        self._shards = shards
        self._rank = rank
        self._processes = processes
        self._names: dict[int, str] = {}
        self.notes: list[str] = []
        if workers > count // processes:
            self.notes.append(
                f"{count} shard(s) for {processes} process(es) with {workers} data workers each: "
                f"workers without a shard have nothing to do (--data.workers {count // processes})."
            )
        if count % processes:
            self.notes.append(
                f"{count} shards cannot be shared out evenly among {processes} processes: those "
                "with fewer show their images more often."
            )

    def __len__(self) -> int:
        """Return the number of images in an epoch, of all processes together."""
        return self._shards.images

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        """Yield images and labels in an order that is always the same; skip unreadable ones."""
        for item in self.read(0, 0, 0):
            if isinstance(item, ShardSample):
                try:
                    image = open_image(item.source)
                except UnreadableImageError:
                    continue
                yield image, item.label

    def read(self, seed: int, epoch: int, turn: int) -> Iterator[ShardSample | Lost]:
        """Yield every sample of this worker's shards once, shuffled.

        Args:
            seed: Of the run.
            epoch: Of the run.
            turn: How often this epoch was read before, because images were missing.
        """
        from webdataset import shuffle

        key = f"{seed}/{epoch}/{turn}"
        order = list(range(len(self._shards.files)))
        random.Random(key).shuffle(order)
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        own = order[self._rank :: self._processes][worker::workers]
        rng = random.Random(f"{key}/{self._rank}/{worker}")
        mixed = shuffle(SHUFFLED, initial=FIRST_SHUFFLED, rng=rng)(self._read(own))
        yield from mixed

    def _read(self, own: Sequence[int]) -> Iterator[ShardSample | Lost]:
        for shard in own:
            stated = self._shards.lengths[shard] if self._shards.lengths else 0
            count = 0
            reason = "it ends there"
            # Damaged archives raise anything, not only tarfile's errors.
            try:
                for sample in _samples(self._shards.files[shard]):
                    yield self._image(shard, count, sample)
                    count += 1
            except MemoryError:
                raise
            except Exception as error:
                reason = _reason(error)
                stated = max(stated, count + 1)
            if count < stated:
                name = f"{self._file(shard)} from number {count} on ({reason})"
                yield Lost(number=shard * _PER_SHARD + _REST + count, name=name)

    def _image(self, shard: int, index: int, sample: dict[str, Any]) -> ShardSample | Lost:
        number = shard * _PER_SHARD + index
        endings = image_endings()
        for key, content in sample.items():
            if f".{key}" in endings:
                name = f"{self._file(shard)}: {sample['__key__']}.{key}"
                return ShardSample(number=number, source=content, label=_label(sample), name=name)
        name = f"{self._file(shard)}: {sample['__key__']} (no image among its files)"
        return Lost(number=number, name=name)

    def _file(self, shard: int) -> str:
        return self._shards.files[shard].name

    def note(self, lost: Lost) -> None:
        """Remember the name of what this process could not read."""
        self._names[lost.number] = lost.name

    def filename(self, number: int) -> str:
        """Return the name of an image, or of a shard that was lost from some image on."""
        shard, index = divmod(number, _PER_SHARD)
        rest, index = divmod(index, _REST)
        unknown = f"{self._file(shard)} {'from ' if rest else ''}number {index}"
        return self._names.get(number, unknown + (" on" if rest else ""))

    def weight(self, number: int) -> int:
        """Return how many images are lost with what has this number."""
        shard, index = divmod(number, _PER_SHARD)
        rest, index = divmod(index, _REST)
        if not rest:
            return 1
        mean = self._shards.images // len(self._shards.files)
        stated = self._shards.lengths[shard] if self._shards.lengths else mean
        return max(1, stated - index)


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
