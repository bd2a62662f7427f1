"""A folder of features in parts: a file for every `part_images` images of the input, and an index.

Part K holds those of its images, from number `K * part_images` on, that could be read, so it is the
same no matter which process makes it, or when. `index.json` says from the start which model,
settings and images the folder is for, and at the end which parts it has; `skipped.csv` lists what
was left out. Everything is written atomically.
"""

import csv
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import to_json
from cassle_zoo.features.files import FORMAT_VERSION, INDEX, as_text, part_counts, read_index
from cassle_zoo.features.inputs import Skipped

SKIPPED = "skipped.csv"
KINDS = ("safetensors", "parquet")
UNFINISHED = "unfinished.safetensors"  # in a process's own folder: its part in the making
_ROUNDING = 0.05  # of the length: between devices, in bfloat16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a folder of features is for.

    Attributes:
        model_name: What the model was called, for readers; the weights alone decide whether two
            models are the same.
        model: SHA-256 of the weights, also of the projector if it is used.
        settings: Everything else that the features depend on.
        images: Number of images, and SHA-256 of their names in their order.
        part_images: Images per part, unreadable ones included.
        kind: Format of the parts, one of `KINDS`.
        samples: A few values of the first output of a few images spread over the input, `None` for
            those that cannot be read: equal names and weights do not imply equal features.
    """

    model_name: str
    model: dict[str, str]
    settings: dict[str, Any]
    images: dict[str, Any]
    part_images: int
    kind: str
    samples: list[list[float] | None]

    @property
    def count(self) -> int:
        """The number of parts."""
        images: int = self.images["count"]
        return -(-images // self.part_images)

    def file(self, part: int) -> str:
        """Return the name of a part's file."""
        return f"part-{part:06d}.{self.kind}"

    def range_of(self, part: int) -> range:
        """Return the numbers of a part's images."""
        start = part * self.part_images
        return range(start, min(start + self.part_images, self.images["count"]))


def put(file: Path, stage: Path, write: Callable[[Path], Any]) -> None:
    """Write a file of the folder, all or nothing, and flush it to the disk.

    Args:
        file: The file.
        stage: This process's own folder beside it, which is written to first: what a killed process
            leaves there is removed by the next one.
        write: Writes to the path it is given.
    """
    staged = stage / f"writing-{file.name}"
    staged.unlink(missing_ok=True)
    write(staged)
    with staged.open("rb+") as opened:
        os.fsync(opened.fileno())
    os.replace(staged, file)


def begin(folder: Path, stage: Path, plan: Plan) -> None:
    """Record the plan in a folder, or check that the folder was begun with the same one.

    Raises:
        ConfigError: The folder is for another model, other settings or images, naming each
            difference; or its index cannot be read.
    """
    path = folder / INDEX
    if not path.exists():
        if strays := sorted(file.name for file in folder.glob("part-*")):
            raise ConfigError(
                f"{str(folder)!r} holds {strays[0]!r} but no {INDEX} that says what it is; give "
                "another folder."
            )
        _forget_unfinished(folder)  # `rm FOLDER/*` leaves them, as they are hidden
        _put_text(path, stage, to_json({"format_version": FORMAT_VERSION, **asdict(plan)}))
        return
    stored = read_index(folder)
    differing = [
        f"{name}: {before!r} there, {now!r} now"
        for key, current in asdict(plan).items()
        if key not in ("model_name", "samples")
        for name, before, now in _differences(key, stored.get(key), current)
    ]
    try:
        # Folders begun by earlier versions have no samples.
        pairs = list(zip(stored.get("samples") or [], plan.samples, strict=False))
        other = 0 if differing else sum(_samples_differ(*pair) for pair in pairs)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{str(path)!r} is damaged (samples: {error}); give another folder."
        ) from error
    if other:
        differing.append(
            f"the features of {other} of {len(pairs)} sampled images differ: images of the same "
            "names but other content, another column, transform or model"
        )
    if differing:
        raise ConfigError(
            f"{str(folder)!r} holds features of another extraction ({'; '.join(differing)}); give "
            "another folder, or repeat the command that began this one to continue it."
        )


def part_images_of(folder: Path) -> int | None:
    """Return the images per part of a folder that was begun before; None for a new one.

    Raises:
        ConfigError: Its index cannot be read.
    """
    if not (folder / INDEX).exists():
        return None
    found = read_index(folder).get("part_images")
    if not isinstance(found, int) or found < 1:
        raise ConfigError(f"{str(folder / INDEX)!r} has part_images {found!r}.")
    return found


def missing(folder: Path, plan: Plan, parts: range) -> list[int]:
    """Return which of the given parts are not written yet."""
    there = {entry.name for entry in os.scandir(folder)}
    return [part for part in parts if plan.file(part) not in there]


def finish(
    folder: Path, stage: Path, plan: Plan, left_out: Sequence[Skipped], *, anew: bool
) -> bool:
    """Write `skipped.csv` and the complete index, if all parts are there.

    Args:
        folder: The folder.
        stage: This process's own folder in it.
        plan: Its plan.
        left_out: What the listing left out.
        anew: Whether parts were written in this call, so that an earlier index is out of date.

    Returns:
        Whether all parts are there.
    """
    if missing(folder, plan, range(plan.count)):
        return False
    _forget_unfinished(folder)
    if not anew and "parts" in read_index(folder):
        return True
    entries, every = [], list(left_out)
    for part in range(plan.count):
        images, skipped = part_counts(folder / plan.file(part))
        entries.append({"file": plan.file(part), "images": images, "skipped": len(skipped)})
        every += skipped
    file = io.StringIO(newline="")
    rows = ((as_text(skip.source), skip.reason) for skip in every)
    csv.writer(file).writerows([("source", "reason"), *rows])
    _put_text(folder / SKIPPED, stage, file.getvalue())
    index = {"format_version": FORMAT_VERSION, **asdict(plan), "parts": entries}
    _put_text(folder / INDEX, stage, to_json(index))
    return True


def _forget_unfinished(folder: Path) -> None:
    """Remove what interrupted processes saved, once all is complete or was deleted."""
    for file in folder.glob(f".*-of-*/{UNFINISHED}"):
        file.unlink(missing_ok=True)


def _put_text(file: Path, stage: Path, text: str) -> None:
    put(file, stage, lambda path: path.write_bytes(text.encode()))


def _samples_differ(before: list[float] | None, now: list[float] | None) -> bool:
    if before is None or now is None:  # the storage may have failed for a moment
        return False
    largest = max(math.hypot(*before), math.hypot(*now))
    return math.dist(before, now) > _ROUNDING * largest


def _differences(key: str, stored: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(stored, dict) and isinstance(now, dict):
        for name in sorted(stored.keys() | now.keys()):
            yield from _differences(f"{key}.{name}", stored.get(name), now.get(name))
    elif stored != now:
        yield key, stored, now
