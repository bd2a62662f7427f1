"""From images to features: `Extractor`, and `extract_features` for what fits into memory."""

import itertools
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cassle_zoo.accel.fused import can_fuse, fuse_for_inference, parts_and_values
from cassle_zoo.common.devices import PRECISIONS, to_device
from cassle_zoo.common.errors import CassleZooError, ConfigError, DataError, unknown_name
from cassle_zoo.common.faults import receive, translate_errors, worker_setup
from cassle_zoo.common.images import ValueRange, check_value_range
from cassle_zoo.common.workers import check_shared_memory
from cassle_zoo.features.inference import ADVICE, Halving, choose_device, inference, placed
from cassle_zoo.features.inputs import Inputs, Skipped, expand_inputs, nothing_read
from cassle_zoo.features.outputs import (
    cast_output,
    compute_outputs,
    open_projector,
    parse_dtype,
    parse_outputs,
)
from cassle_zoo.features.reader import ReadyImages, unchanged
from cassle_zoo.features.transform import Transform, eval_transform, reduction_for, takes_bands
from cassle_zoo.features.whitening import OWN, Whitening, open_whitening, origin_of
from cassle_zoo.features.wrappers import Unwrapped, unwrap
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.zoo import create
from cassle_zoo.zoo.names import public_name

DECODINGS = ("fast", "exact")


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of images, and where each came from.

    Attributes:
        features: (N, D) on the CPU, float32 by default, in the order of the input: the output
            `pooled` if it was requested, else the first output.
        sources: N names: the file, or the position in the input such as ``"input[3]"``.
        skipped: The images that were left out, and why; empty if all were read.
        outputs: All requested outputs by name, (N, ...) on the CPU; `features` is one of them.
        origin: Of which output and weights `features` are; empty if that was not recorded, as by
            `extract_features` of a model given as an object.
    """

    features: Tensor
    sources: list[str]
    skipped: list[Skipped] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    origin: str = ""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sources)


@dataclass(frozen=True, eq=False)
class ExtractedBatch:
    """The outputs of a batch of consecutive images of an input.

    Attributes:
        indices: Position in the input of each row of the outputs, ascending.
        sources: Name of each row's image.
        outputs: The outputs by name, (B, ...) on the CPU.
        skipped: The images that could not be read.
        size: Number of input images that the batch covers, read or not.
    """

    indices: list[int]
    sources: list[str]
    outputs: dict[str, Tensor]
    skipped: list[Skipped]
    size: int


class Extractor:
    """A model with everything needed to turn images into features; callable on a batch of images.

    It can be pickled, and used by several threads. A model given as an object keeps its weights,
    running statistics, device and training mode. The outputs are:

    * ``pooled``: (B, D), the input of the model's classifier.
    * ``tokens``: (B, N, D), one per patch, or the last feature map (B, C, H, W).
    * ``stage:K``: (B, C), the mean of the map after the model's stage K, counted from 0 or, if
      negative, from the end; ``stage:K:map``: the map itself, (B, C, H, W). The stages are those of
      timm's ``forward_intermediates``.
    * ``projected``: (B, P), the projection of the pooled features by the model's own projector
      under the omega of an image that was not augmented. (In a view's projection under its own
      omega, what augmentation changed counts for less.)

    Attributes:
        model: The model.
        name: The name that it was loaded by, without folders, or the name of its class.
        outputs: Names of the outputs.
        transform: Turns an RGB image into the model's input; or ``"as_is"``.

    Examples:
        >>> outputs = ("pooled", "projected")
        >>> extractor = cassle_zoo.Extractor("resnet18_cassle_simclr", outputs=outputs)
        >>> with Image.open("photo.jpg") as image:
        ...     found = extractor([image])
        >>> {name: tuple(rows.shape) for name, rows in found.items()}
        {'pooled': (1, 512), 'projected': (1, 128)}
        >>> for batch in extractor.stream("photos/", batch_size=4):
        ...     print(batch.sources[0], tuple(batch.outputs["pooled"].shape))
        photos/guitar.png (4, 512)
        photos/rocket.png (2, 512)
    """

    def __init__(
        self,
        model: nn.Module | str,
        *,
        outputs: Sequence[str] = ("pooled",),
        precision: str = "fp32",
        device: str | torch.device | None = None,
        transform: Transform | Literal["as_is"] | None = None,
        dtype: str | torch.dtype = torch.float32,
        projector: ConditionedProjector | None = None,
        value_range: ValueRange | None = None,
        column: str = "image",
        decode: str = "fast",
        whiten: Whitening | str | os.PathLike[str] | None = None,
    ) -> None:
        """Load the model if it is given by name, and check the settings.

        Args:
            model: A model (timm, cassle_zoo, or any module that maps (B, C, H, W) to (B, D)),
                possibly in a wrapper such as DataParallel; or any name that
                :func:`cassle_zoo.create_model` takes, which is loaded with pretrained weights.
            outputs: Names of the outputs to compute.
            precision: ``"fp32"``, ``"bf16"`` (autocast) or ``"auto"``: bf16 where it is about
                twice as fast.
            device: Where to compute. Default: the model's device if it is not the CPU, else a GPU
                if there is one. A model given as an object is moved there for each call, or each
                stream, and back.
            transform: Turns an RGB image into the model's input; by default that of
                :func:`eval_transform`. With ``"as_is"``, images are tensors (C, H, W), all of one
                size, that are ready for the model.
            dtype: Type of the outputs, float32 or float16.
            projector: For ``projected``; by default the one that belongs to the model's name.
            value_range: The values of black and white in images of more than 8 bits, such as
                ``(0, 4095)`` for 12 bits stored in 16; by default 0 and 65535.
            column: Name of the image column, for calls with a batch of columns.
            decode: ``"fast"`` decodes JPEGs much larger than the model's input at 1/2, 1/4 or 1/8
                of their size, but no smaller than twice what the model needs; the cosine to the
                exact features is mostly above 0.9999. ``"exact"`` decodes them in full, as a
                `transform` of your own always does.
            whiten: Whitening of the pooled features: a :class:`Whitening`, the file of one, or
                ``"model"`` for the one in the model's folder.

        Raises:
            ConfigError: A setting is not allowed, the model has no such output, or the file of the
                whitening says that it was fitted to features of another model.
            UnknownNameError: There is no such model, output, precision, or other name of a setting.
            ModelFolderError: The model has no projector, or no whitening.
            DataError: The file of the whitening is missing or damaged.
            WeightsUnavailableError: Weights are not published or cannot be loaded.
        """
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        if decode not in DECODINGS:
            raise unknown_name("decode", decode, DECODINGS)
        if isinstance(transform, str) and transform != "as_is":
            raise unknown_name("transform", transform, ["as_is"])
        self.dtype = parse_dtype(dtype)
        name = model if isinstance(model, str) else None
        self.whitening = (
            whiten
            if whiten is None or isinstance(whiten, Whitening)
            else open_whitening(whiten, name)
        )
        if name is not None and projector is None and "projected" in outputs:
            projector = open_projector(name)
        self.owned = name is not None
        if isinstance(model, str):
            model = create.create_model(model, pretrained=True)
        self.model = model
        self._found = unwrap(model)
        self._parsed = parse_outputs(outputs, self._found)
        self.name = type(self._found.network).__name__ if name is None else public_name(name)
        self.outputs = tuple(self._parsed)
        if projector is None and "projected" in self.outputs:
            raise ConfigError(
                "the output 'projected' needs the model's projector: give the model by its name, "
                "or pass projector=."
            )
        if self.whitening is not None and "pooled" not in self.outputs:
            raise ConfigError("whitening is of the output 'pooled', which is not asked for.")
        if self.whitening is not None:
            # One without a record is the model's own if it is in the model's folder, and an
            # object is in the caller's hands.
            own = whiten is self.whitening or str(whiten) == OWN
            if self.whitening.origin or not own:
                self.whitening.check_origin(origin_of(self.model), whiten)
        self.projector = projector
        self.precision = precision
        self.device = device
        self.column = column
        self.value_range = check_value_range(value_range)
        self._own_transform = transform is None
        if transform is None:
            transform = eval_transform(model, value_range=self.value_range)
        self.transform = transform
        self.decode = decode if self._own_transform else "exact"
        self._lock = threading.Lock()
        self._fused: tuple[Any, nn.Module] | None = None

    @property
    def origin(self) -> str:
        """Of which output and weights the features are, as `FeatureSet.origin` says."""
        found = origin_of(self.model, "pooled" if "pooled" in self.outputs else self.outputs[0])
        return f"{found}, whitened" if found and self.whitening is not None else found

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the other process makes itself; it owns the model that arrives there."""
        return {**self.__dict__, "owned": True, "_fused": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`__getstate__` returned."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __call__(self, images: Any) -> dict[str, Any]:
        """Compute the outputs of a batch of images.

        Args:
            images: Images in any form that :func:`extract_features` takes, such as a list of PIL
                images or a tensor (N, C, H, W). Or a batch of columns by name, as ``ray.data`` and
                ``datasets`` pass them, with the images in the column `column`.

        Returns:
            The outputs by name, tensors (N, ...) on the CPU, in the order of the images. For a
            batch of columns: the same columns, with arrays of the outputs in place of the images.

        Raises:
            DataError: An image cannot be read; without it, the rows would not match the batch.
            ConfigError: An object is not an image.
        """
        columns = dict(images) if isinstance(images, Mapping) else None
        if columns is not None and self.column not in columns:
            raise ConfigError(
                f"the batch has no column {self.column!r}, only {', '.join(columns)}: pass column=."
            )
        values = images if columns is None else columns.pop(self.column)
        inputs, skipped = expand_inputs(values)
        reader = self._reader(inputs, 0)
        ready, unread = reader.read(list(range(len(inputs))))
        skipped += filter(None, unread)
        if skipped or ready is None:
            raise DataError(
                nothing_read(skipped, "An image of the batch cannot be read", fix="Leave it out.")
            )
        outputs = self.compute(ready)
        if columns is None:
            return dict(outputs)
        return {**columns, **{name: value.numpy() for name, value in outputs.items()}}

    def compute(self, ready: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of images that are ready for the model.

        Args:
            ready: (B, C, H, W), a batch of what `transform` returns.

        Returns:
            The outputs by name, (B, ...) on the CPU.

        Raises:
            ConfigError: What the model returns has the wrong type or shape for an output, or does
                not fit `dtype`.
        """
        device = self._place()
        found = self._found
        with ExitStack() as stack:
            stack.enter_context(inference(found.network, device, self.precision))
            if self.projector is not None:
                stack.enter_context(inference(self.projector, device, self.precision))
            if not set(self.outputs) - {"pooled", "projected"}:
                network = self._fuse(device)
                if network is not found.network:
                    found = Unwrapped(network=network, model=None, config=None, what=found.what)
            images = to_device(ready, device)
            outputs = compute_outputs(found, images, self._parsed, self.projector)
        if self.whitening is not None:
            # It may have been fitted on a GPU.
            pooled = outputs["pooled"].float().to(self.whitening.mean.device)
            outputs["pooled"] = self.whitening(pooled).cpu()
        return {name: cast_output(value, self.dtype, name) for name, value in outputs.items()}

    def stream(
        self,
        images: Any,
        *,
        batch_size: int = 64,
        workers: int = 0,
        indices: Sequence[int] | None = None,
    ) -> Iterator[ExtractedBatch]:
        """Extract images batch by batch, in the order of the input, holding one batch in memory.

        Args:
            images: What :func:`extract_features` takes, or what :func:`expand_inputs` returned.
            batch_size: Images at a time.
            workers: Processes that read images; 0 reads in this process, files in threads.
            indices: Positions in the input of the images to extract, ascending; by default all.

        Returns:
            An iterator over batches. The model may be used between them.

        Raises:
            ConfigError: A setting is not allowed.
            DataError: A file or folder does not exist.
            NotEnoughMemoryError: The workers' batches do not fit into shared memory.
        """
        check_batches(batch_size, workers)
        inputs, skipped = expand_inputs(images)
        wanted = range(len(inputs)) if indices is None else indices
        starts = range(0, len(wanted), batch_size)
        batches = (list(wanted[start : start + batch_size]) for start in starts)
        return self.stream_batches(inputs, batches, workers=workers, skipped=skipped)

    def stream_batches(
        self,
        inputs: Inputs,
        batches: Iterable[list[int]],
        *,
        workers: int = 0,
        skipped: Sequence[Skipped] = (),
    ) -> Iterator[ExtractedBatch]:
        """Extract images in given batches, as :meth:`stream` does.

        Args:
            inputs: From :func:`expand_inputs`.
            batches: The positions of the images of each.
            workers: As for :meth:`stream`.
            skipped: What the listing left out; the first batch names it, too.
        """
        target = choose_device(self._found.network, self.device)
        batches, ahead = itertools.tee(batches)
        loader = DataLoader(
            self._reader(inputs, workers),
            batch_sampler=ahead,
            num_workers=workers,
            collate_fn=unchanged,
            worker_init_fn=worker_setup(),
            # Tensors taken as they are may be on the GPU already, where nothing can be pinned.
            pin_memory=target.type == "cuda" and self.transform != "as_is",
            # Without its own generator the loader would advance the global one.
            generator=torch.Generator(),
        )
        return self._batches(loader, inputs, batches, list(skipped))

    def _batches(
        self,
        loader: DataLoader[Any],
        inputs: Inputs,
        batches: Iterable[list[int]],
        skipped: list[Skipped],
    ) -> Iterator[ExtractedBatch]:
        compute = Halving(self.compute)
        with ExitStack() as stack:
            # Held for all batches; the mode and everything else only while a batch is computed.
            stack.enter_context(placed(self._found.network, self._place()))
            for batch, indices in zip(receive(loader, ADVICE), batches, strict=True):
                if isinstance(batch, CassleZooError):
                    raise batch
                ready, unread = batch
                read = [index for index, skip in zip(indices, unread, strict=True) if skip is None]
                yield ExtractedBatch(
                    indices=read,
                    sources=[inputs[index].source for index in read],
                    outputs={} if ready is None else compute(ready),
                    skipped=[*skipped, *filter(None, unread)],
                    size=len(unread),
                )
                skipped = []

    def _reader(self, inputs: Inputs, workers: int) -> ReadyImages:
        in_threads = self._own_transform and inputs.in_threads and workers == 0
        threads = torch.get_num_threads() if in_threads else 1
        reduction = reduction_for(self.transform) if self.decode == "fast" else None
        return ReadyImages(inputs, self.transform, threads, self.value_range, reduction)

    def input_bytes(self) -> int:
        """Return the size in bytes of an image that is ready for the model; 0 if not known."""
        known = self._own_transform and not takes_bands(self.transform)
        if isinstance(self.transform, str) or not known:
            return 0
        return self.transform(Image.new("RGB", (64, 64))).nbytes

    def _place(self) -> torch.device:
        """Return the device to compute on; a model of our own moves there for good."""
        device = choose_device(self._found.network, self.device)
        if self.owned:
            with self._lock:
                self.model.to(device)
                if self.projector is not None:
                    self.projector.to(device)
        return device

    def _fuse(self, device: torch.device) -> nn.Module:
        """Return the network with fused kernels, made anew when the weights have changed."""
        network = self._found.network
        # Each time, since somebody may have added a hook.
        if not can_fuse(network, device, self.precision):
            return network
        key = (device, parts_and_values(network, content=not self.owned))
        with self._lock:
            if self._fused is None or self._fused[0] != key:
                self._fused = (key, fuse_for_inference(network, device, self.precision))
            return self._fused[1]


def extract_features(
    model: nn.Module | str,
    inputs: Any,
    *,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    num_workers: int = 0,
    precision: str = "fp32",
    transform: Transform | Literal["as_is"] | None = None,
    progress: bool | None = None,
    outputs: Sequence[str] = ("pooled",),
    dtype: str | torch.dtype = torch.float32,
    value_range: ValueRange | None = None,
    column: str | None = None,
    decode: str = "fast",
    whiten: Whitening | str | os.PathLike[str] | None = None,
) -> FeatureSet:
    """Compute the features of images, leaving out those that cannot be read.

    Features are the input of the model's classifier: the classifier of a timm model is not
    applied. The weights, device and training mode of a model given as an object do not change.

    Args:
        model: As for :class:`Extractor`.
        inputs: A path (a file, folder, pattern, list, tar file, saved dataset or address; see
            :func:`cassle_zoo.features.places.find_images`), PIL images, arrays ((H, W) or
            (H, W, C); uint8, uint16, or float in [0, 1]), tensors ((C, H, W) or (N, C, H, W); the
            same types), a collection of these, or a map-style dataset of images or
            ``(image, label, ...)``. Arrays and tensors become 8-bit images first, so that the same
            image has the same features in every form.
            :func:`cassle_zoo.data.listing.list_images` says which files of a folder count.
        batch_size: Images at a time; it does not change the features.
        device: As for :class:`Extractor`.
        num_workers: Processes that read images; 0 reads in this process, files in threads.
        precision: As for :class:`Extractor`.
        transform: As for :class:`Extractor`.
        progress: Show a progress bar on stderr; by default only if that is a terminal.
        outputs: As for :class:`Extractor`.
        dtype: As for :class:`Extractor`.
        value_range: As for :class:`Extractor`.
        column: The column of a list or dataset that holds the images; by default recognised by its
            name or type.
        decode: As for :class:`Extractor`.
        whiten: As for :class:`Extractor`.

    Returns:
        The features with their sources, and the images that were left out.

    Raises:
        DataError: A file or folder does not exist, no image could be read, or a worker was killed.
        ConfigError: A setting is not allowed, or the model does not return (B, D).
        UnknownNameError: There is no such model, output or precision.
        NotEnoughMemoryError: The workers' batches do not fit into shared memory, or the memory
            does not suffice for one image at a time.

    Examples:
        >>> found = cassle_zoo.extract_features(
        ...     "resnet18_cassle_simclr", ["photos/", "photo.jpg"], progress=False
        ... )
        >>> found.features.shape, found.sources[-1], found.skipped
        (torch.Size([7, 512]), 'photo.jpg', [])
    """
    images, skipped = expand_inputs(inputs, column)
    if not images:
        raise DataError(nothing_read(skipped))
    extractor = Extractor(
        model,
        outputs=outputs,
        precision=precision,
        device=device,
        transform=transform,
        dtype=dtype,
        value_range=value_range,
        decode=decode,
        whiten=whiten,
    )
    return collect(
        extractor, images, skipped, batch_size=batch_size, workers=num_workers, progress=progress
    )


def check_batches(batch_size: int, workers: int) -> None:
    """Raise a `ConfigError` if a setting of a loader is not allowed."""
    if batch_size < 1 or workers < 0:
        raise ConfigError(
            f"batch_size={batch_size}, num_workers={workers}: they must be at least 1 and 0."
        )


def collect(
    extractor: Extractor,
    images: Inputs,
    skipped: list[Skipped],
    *,
    batch_size: int,
    workers: int,
    progress: bool | None,
) -> FeatureSet:
    """Extract into memory what :func:`expand_inputs` returned; see :func:`extract_features`."""
    skipped = list(skipped)
    rows: dict[str, list[Tensor]] = {name: [] for name in extractor.outputs}
    sources: list[str] = []
    disable = None if progress is None else not progress
    bar = tqdm(total=len(images), unit="img", desc="features", file=sys.stderr, disable=disable)
    if workers:
        check_shared_memory(workers, batch_size, len(images), extractor.input_bytes())
    with bar, translate_errors(None, batch_size, ADVICE):
        for batch in extractor.stream(images, batch_size=batch_size, workers=workers):
            sources += batch.sources
            skipped += batch.skipped
            for name, value in batch.outputs.items():
                rows[name].append(value)
            bar.update(batch.size)
    if not sources:
        raise DataError(nothing_read(skipped))
    found = {name: torch.cat(rows.pop(name)) for name in extractor.outputs}
    first = found.get("pooled", found[extractor.outputs[0]])
    # The weights of an object may change between calls, so each call would have to hash them.
    origin = extractor.origin if extractor.owned else ""
    return FeatureSet(first, sources, skipped, found, origin)
