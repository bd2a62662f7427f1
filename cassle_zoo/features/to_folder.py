"""Extraction into a folder: in constant memory, resumable, by one or several processes."""

import hashlib
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cassle_zoo.common.devices import autocast_dtype
from cassle_zoo.common.errors import ConfigError, DataError, StorageError, unknown_name
from cassle_zoo.common.faults import locked, stop_signals, translate_errors
from cassle_zoo.common.files import named_path
from cassle_zoo.common.workers import check_shared_memory
from cassle_zoo.features import parts
from cassle_zoo.features.extract import ExtractedBatch, Extractor, FeatureSet, check_batches
from cassle_zoo.features.files import (
    load_more,
    load_part_file,
    part_counts,
    save_parquet,
    save_part_safetensors,
)
from cassle_zoo.features.inference import ADVICE, choose_device
from cassle_zoo.features.inputs import Inputs, Skipped, expand_inputs, nothing_read
from cassle_zoo.store.tensors import state_sha256

PART_IMAGES = 4096
_PART_BYTES = 2**28
_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class FolderResult:
    """The outcome of an extraction into a folder.

    Attributes:
        images: Number of this process's images that have features, from earlier calls as well;
            if it was stopped, in whole parts.
        skipped: Number of its images that were left out, likewise, plus what the listing left out.
        stopped: Whether a signal stopped it; the same call continues.
        complete: Whether all parts are there, including those of other processes.
    """

    images: int
    skipped: int
    stopped: bool
    complete: bool


def extract_to_folder(
    extractor: Extractor,
    inputs: Any,
    folder: str | os.PathLike[str],
    *,
    kind: str = "safetensors",
    part_images: int | None = None,
    part: tuple[int, int] = (1, 1),
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool | None = None,
    report: Callable[[str], None] | None = None,
) -> FolderResult:
    """Extract features into a folder of parts, each written as soon as it is made.

    Memory use does not grow with the number of images. To continue a call that was interrupted, in
    whatever way, repeat it; the final files are those of an uninterrupted call, byte for byte (on
    one machine, with one batch size). On SIGTERM and SIGINT, it saves what is done and returns.

    Several processes, on one or more machines, can share the work: give each its own `part`,
    otherwise the same arguments, and a folder that all of them see.

    Args:
        extractor: The model and what to compute.
        inputs: As for :func:`cassle_zoo.extract_features`, or what `expand_inputs` returned.
        folder: Where to write the parts, `index.json` and, at the end, `skipped.csv`;
            :func:`cassle_zoo.load_features` reads it.
        kind: Format of the parts: ``"safetensors"``, or ``"parquet"`` (one output (N, D)).
        part_images: Images per part, unreadable ones included. By default 4096, or as many as fit
            into 256 MiB if that is fewer, in whole batches; if the folder was begun before, as
            many as then.
        part: (I, N): this is process I of N, counted from 1.
        batch_size: Images at a time. A batch does not span parts; it is halved if the memory is
            exhausted.
        num_workers: Processes that read images; 0 reads in this process, files in threads.
        progress: Show a progress bar on stderr; by default only if that is a terminal.
        report: Called with each line for the user; by default they go to stderr.

    Returns:
        How much is done.

    Raises:
        ConfigError: A setting is not allowed, or the folder holds features of another model, data
            or setting, naming the difference.
        FolderInUseError: Another process is working on the same part.
        DataError: There are no images, none can be read, or a data worker was killed.
        NotEnoughMemoryError: There is not enough memory for one image, or not enough shared memory
            for the workers.
        StorageError: The disk is full or too small, or the folder is not writable.

    Examples:
        >>> extractor = cassle_zoo.Extractor("resnet18_cassle_simclr")
        >>> result = cassle_zoo.extract_to_folder(
        ...     extractor, "photos/", "features", batch_size=2, part_images=4, progress=False
        ... )
        >>> result.images, result.complete
        (6, True)
        >>> [len(part) for part in cassle_zoo.load_parts("features")]
        [4, 2]
    """
    if not isinstance(extractor, Extractor):
        raise ConfigError(
            f"the extractor is a {type(extractor).__name__}; give cassle_zoo.Extractor(MODEL)."
        )
    folder = named_path(folder, "folder")
    report = report or partial(print, file=sys.stderr)
    _check(kind, part_images, part, batch_size, num_workers)
    own, of = part
    stage = folder / f".{own}-of-{of}"
    with (
        translate_errors(folder, batch_size, ADVICE),
        locked(stage, option="-o", doing="extracting"),
        _cleared(stage),
        stop_signals() as stop,
    ):
        images, left_out = expand_inputs(inputs)
        if not images:
            raise DataError(nothing_read(left_out))
        shapes, samples = _probe(extractor, images, left_out)
        if kind == "parquet" and (len(shapes) > 1 or next(iter(shapes.values())).ndim != 2):
            raise ConfigError(
                f"parquet holds one output (N, D), but the outputs are {', '.join(shapes)}; pass "
                "kind='safetensors' (--kind)."
            )
        plan = _plan(extractor, images, shapes, samples, folder, kind, part_images, batch_size)
        batch_size = min(batch_size, plan.part_images)
        check_shared_memory(num_workers, batch_size, len(images), extractor.input_bytes())
        parts.begin(folder, stage, plan)
        own_parts = range((own - 1) * plan.count // of, own * plan.count // of)
        todo = parts.missing(folder, plan, own_parts)
        _check_disk(folder, plan, todo, shapes)
        undone = sum(len(plan.range_of(k)) for k in todo)
        total = sum(len(plan.range_of(k)) for k in own_parts)
        bar = tqdm(
            total=total,
            initial=total - undone,
            unit="img",
            desc="features",
            file=sys.stderr,
            disable=None if progress is None else not progress,
        )
        writer = _Writer(folder, stage, plan, shapes, todo, extractor.origin)
        batches = _batches(plan, todo, writer.next, batch_size)
        num_workers = num_workers if todo else 0
        try:
            with bar:
                bar.update(writer.next - plan.range_of(writer.part).start)
                for batch in extractor.stream_batches(images, batches, workers=num_workers):
                    writer.add(batch)
                    bar.update(batch.size)
                    if stop.requested:
                        break
        except (DataError, RuntimeError) as error:
            # A worker that is busy with one image for too long is killed by the signal.
            if not stop.requested or "worker" not in str(error):
                raise
        left = parts.missing(folder, plan, own_parts) if stop.requested else []
        done = sorted(set(own_parts) - set(left))
        if left:
            writer.save_unfinished()
            report(
                f"stopped with {len(done)} of {len(own_parts)} parts; the same command continues."
            )
        complete = not left and parts.finish(folder, stage, plan, left_out, anew=bool(todo))
        found = [part_counts(folder / plan.file(number)) for number in done]
    read, unread = sum(rows for rows, _ in found), sum(len(skipped) for _, skipped in found)
    if complete and read == 0 and of == 1:
        raise DataError(f"No image could be read; {str(folder / parts.SKIPPED)!r} says why.")
    return FolderResult(
        images=read, skipped=unread + len(left_out), stopped=bool(left), complete=complete
    )


@contextmanager
def _cleared(stage: Path) -> Iterator[None]:
    """Remove a process's own folder at the end, unless the next call needs what is in it."""
    try:
        yield
    finally:
        if not (stage / parts.UNFINISHED).exists():
            shutil.rmtree(stage, ignore_errors=True)


class _Writer:
    """Collects batches, and writes a part when all its images are there."""

    def __init__(
        self,
        folder: Path,
        stage: Path,
        plan: parts.Plan,
        shapes: dict[str, Tensor],
        todo: list[int],
        origin: str,
    ) -> None:
        self.folder, self.stage, self.plan, self.shapes = folder, stage, plan, shapes
        self.origin = origin
        self.todo = iter(todo)
        self._start()
        # What is saved may be damaged, or of another part, if a process was killed.
        with suppress(Exception):
            self._resume(stage / parts.UNFINISHED)

    def _start(self) -> None:
        self.part = next(self.todo, self.plan.count)
        self.next = self.plan.range_of(self.part).start
        self.sources: list[str] = []
        self.skipped: list[Skipped] = []
        self.rows: dict[str, list[Tensor]] = {name: [] for name in self.shapes}

    def _resume(self, file: Path) -> None:
        """Continue the first part with what an interrupted call saved of it."""
        more, saved = load_more(file), load_part_file(file)
        if more["part"] == self.part:
            self.rows = {name: [values.clone()] for name, values in saved.outputs.items()}
            self.sources, self.skipped, self.next = saved.sources, saved.skipped, more["next"]

    def add(self, batch: ExtractedBatch) -> None:
        """Take the next batch; write the part if this completes it."""
        self.sources += batch.sources
        self.skipped += batch.skipped
        for name, values in batch.outputs.items():
            self.rows[name].append(values)
        self.next += batch.size
        if self.next == self.plan.range_of(self.part).stop:
            save = save_parquet if self.plan.kind == "parquet" else save_part_safetensors
            self._write(self.folder / self.plan.file(self.part), save)
            (self.stage / parts.UNFINISHED).unlink(missing_ok=True)
            self._start()

    def save_unfinished(self) -> None:
        """Save the part in the making for the next call."""
        if self.next > self.plan.range_of(self.part).start:
            save = partial(save_part_safetensors, part=self.part, next=self.next)
            self._write(self.stage / parts.UNFINISHED, save)

    def _write(self, file: Path, save: Callable[[FeatureSet, Path], None]) -> None:
        outputs = {
            key: torch.cat(rows) if rows else self.shapes[key][:0]
            for key, rows in self.rows.items()
        }
        first = next(iter(outputs.values()))
        features = FeatureSet(
            outputs.get("pooled", first), self.sources, self.skipped, outputs, self.origin
        )
        parts.put(file, self.stage, partial(save, features))


def _check(
    kind: str, part_images: int | None, part: tuple[int, int], batch_size: int, workers: int
) -> None:
    if kind not in parts.KINDS:
        raise unknown_name("kind of parts", kind, parts.KINDS)
    own, of = part
    if not 1 <= own <= of:
        raise ConfigError(f"part {own}/{of}: expected I/N with I from 1 to N.")
    if part_images is not None and part_images < 1:
        raise ConfigError(f"part_images={part_images}: at least 1 image must be in a part.")
    check_batches(batch_size, workers)


def _probe(
    extractor: Extractor, images: Inputs, left_out: list[Skipped]
) -> tuple[dict[str, Tensor], list[list[float] | None]]:
    """Return the outputs of one image, for their shapes, and samples from several images."""
    spread = sorted({len(images) * k // _SAMPLES for k in range(_SAMPLES)})
    batches = list(extractor.stream(images, batch_size=1, indices=spread))
    samples = [_sample(batch.outputs) for batch in batches]
    skipped = list(left_out)
    for batch in batches if any(samples) else extractor.stream(images, batch_size=1):
        skipped += batch.skipped
        if batch.outputs:
            return batch.outputs, samples
    raise DataError(nothing_read(skipped))


def _sample(outputs: dict[str, Tensor]) -> list[float] | None:
    if not outputs:
        return None
    values = next(iter(outputs.values())).flatten()
    picked = values[:: max(1, len(values) // _SAMPLES)][:_SAMPLES].tolist()
    return [float(f"{v:.6g}") for v in picked] if all(map(math.isfinite, picked)) else None


def _plan(
    extractor: Extractor,
    images: Inputs,
    shapes: dict[str, Tensor],
    samples: list[list[float] | None],
    folder: Path,
    kind: str,
    part_images: int | None,
    batch_size: int,
) -> parts.Plan:
    model = {"sha256": state_sha256(extractor.model)}
    if extractor.projector is not None:
        model["projector_sha256"] = state_sha256(extractor.projector)
    if extractor.whitening is not None:
        model["whitening_sha256"] = extractor.whitening.sha256()
    device = choose_device(extractor.model, extractor.device)
    bf16 = autocast_dtype(extractor.precision, device) is not None
    settings = {
        "outputs": {name: list(values.shape[1:]) for name, values in shapes.items()},
        "dtype": str(extractor.dtype).removeprefix("torch."),
        "precision": "bf16" if bf16 else "fp32",
        "decode": extractor.decode,
        "max_pixels": Image.MAX_IMAGE_PIXELS,
        "value_range": extractor.value_range and list(extractor.value_range),
        "transform": re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(extractor.transform).split())),
    }
    if part_images is None:
        part_images = parts.part_images_of(folder) or _default_part_images(shapes, batch_size)
    names = hashlib.sha256()
    for image in images:
        names.update(image.source.encode("utf-8", "surrogateescape") + b"\0")
    return parts.Plan(
        model_name=extractor.name,
        model=model,
        settings=settings,
        images={"count": len(images), "names": names.hexdigest()},
        part_images=part_images,
        kind=kind,
        samples=samples,
    )


def _default_part_images(shapes: dict[str, Tensor], batch_size: int) -> int:
    fitting = _PART_BYTES // _bytes_per_image(shapes)
    return max(1, min(PART_IMAGES, fitting) // batch_size) * batch_size


def _bytes_per_image(shapes: dict[str, Tensor]) -> int:
    return max(1, sum(values.nbytes for values in shapes.values()))


def _batches(plan: parts.Plan, todo: list[int], first: int, batch_size: int) -> Iterator[list[int]]:
    """Yield the images of parts, from `first` on, in batches that span no two parts."""
    for images in map(plan.range_of, todo):
        for start in range(max(first, images.start), images.stop, batch_size):
            yield list(range(start, min(start + batch_size, images.stop)))


def _check_disk(folder: Path, plan: parts.Plan, todo: list[int], shapes: dict[str, Tensor]) -> None:
    needed = sum(len(plan.range_of(part)) for part in todo) * _bytes_per_image(shapes)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"the features take about {needed / 2**30:,.2f} GiB, but {str(folder)!r} has "
            f"{free / 2**30:,.2f} GiB left; make room, give another folder, or pass --dtype "
            "float16."
        )
