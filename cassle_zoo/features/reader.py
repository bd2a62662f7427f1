"""Images, read and transformed in batches: what data workers do for extraction."""

import errno
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cassle_zoo.common.errors import CassleZooError, ConfigError, DataError
from cassle_zoo.common.images import Reduction, UnreadableImageError, ValueRange
from cassle_zoo.common.workers import share_batch
from cassle_zoo.features.inputs import InputImage, Skipped
from cassle_zoo.features.transform import Transform, channels_of

# A network drive is gone (with it all other images), or too many files are open.
_LOST = {errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EMFILE}
Batch: TypeAlias = tuple[Tensor | None, list[Skipped | None]]
T = TypeVar("T")


@dataclass(eq=False)
class ReadyImages(Dataset[Any]):
    """Batches of transformed images, and why some cannot be read."""

    images: Sequence[InputImage]
    transform: Transform | Literal["as_is"]
    threads: int
    value_range: ValueRange | None
    reduction: Reduction | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch | CassleZooError:
        # If a worker raised it, the error would arrive as text, with the worker's traceback.
        try:
            return share_batch(self.read(indices))
        except CassleZooError as error:
            return error

    def read(self, indices: list[int]) -> Batch:
        """Return the readable images, (B, C, H, W), and for each index why it is not, or None."""
        # Pillow decodes and resizes without holding the GIL.
        if self.threads == 1:
            return _collate([self[index] for index in indices])
        with ThreadPoolExecutor(self.threads) as pool:
            return _collate(list(pool.map(self.__getitem__, indices)))

    def __getitem__(self, index: int) -> Tensor | Skipped:
        return read_image(self.images[index], self._ready)

    def _ready(self, image: InputImage) -> Tensor:
        if not isinstance(self.transform, str):
            channels = channels_of(self.transform)
            if channels not in (1, 3):
                return self.transform(image.raw())
            return self.transform(image.image(self.value_range, self.reduction, channels))
        tensor = image.raw()
        if not isinstance(tensor, Tensor):
            raise ConfigError(
                f"{image.source} is a {type(tensor).__name__}; transform='as_is' takes tensors."
            )
        return tensor


def read_image(image: InputImage, use: Callable[[InputImage], T]) -> T | Skipped:
    """Return what a function makes of an image, or why it cannot be read.

    Raises:
        DataError: The storage failed, so that images would be left out that are whole.
    """
    try:
        return use(image)
    except UnreadableImageError as error:
        if _is_place_lost(error):
            raise DataError(f"cannot read {image.source!r}: {error.reason}.") from error
        return Skipped(image.source, error.reason)
    except Image.DecompressionBombError as error:  # by the transform, of a larger model input
        return Skipped(image.source, str(error).rstrip("."))


def _is_place_lost(error: BaseException | None) -> bool:
    return error is not None and (
        getattr(error, "errno", None) in _LOST or _is_place_lost(error.__cause__)
    )


def unchanged(batch: Any) -> Any:
    """Return a batch as it is: collation for a loader."""
    return batch


def _collate(samples: list[Tensor | Skipped]) -> Batch:
    tensors = [sample for sample in samples if not isinstance(sample, Skipped)]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ConfigError(f"Transformed images differ in shape: {sorted(shapes)}.")
    unread = [sample if isinstance(sample, Skipped) else None for sample in samples]
    return torch.stack(tensors) if tensors else None, unread
