"""Images, read and transformed in batches: what data workers do for extraction."""

import errno
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cassle_zoo.common.errors import CassleZooError, ConfigError, DataError
from cassle_zoo.common.images import Reduction, UnreadableImageError, ValueRange
from cassle_zoo.common.workers import share_batch
from cassle_zoo.features.inputs import InputImage
from cassle_zoo.features.transform import Transform, takes_bands

# A network drive is gone (with it all other images), or too many files are open.
_LOST = {errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EMFILE}
Batch: TypeAlias = tuple[Tensor | None, list[str | None]]


class ReadyImages(Dataset[Any]):
    """Batches of transformed images, with the reasons why some cannot be read."""

    def __init__(
        self,
        images: Sequence[InputImage],
        transform: Transform | Literal["as_is"],
        threads: int,
        value_range: ValueRange | None,
        reduction: Reduction | None = None,
    ) -> None:
        self.images = images
        self.reduction = reduction
        self.value_range = value_range
        self.bands = takes_bands(transform)
        self.transform = transform
        self.threads = threads

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch | CassleZooError:
        # If a worker raised it, the error would arrive as text, with the worker's traceback.
        try:
            return share_batch(self.read(indices))
        except CassleZooError as error:
            return error

    def read(self, indices: list[int]) -> Batch:
        """Return the readable images, (B, C, H, W), and why each index is unreadable, or None."""
        # Pillow decodes and resizes without holding the GIL.
        if self.threads == 1:
            return _collate([self[index] for index in indices])
        with ThreadPoolExecutor(self.threads) as pool:
            return _collate(list(pool.map(self.__getitem__, indices)))

    def __getitem__(self, index: int) -> tuple[Tensor | None, str | None]:
        image = self.images[index]
        try:
            if not isinstance(self.transform, str):
                if self.bands:
                    return self.transform(image.raw()), None
                value = image.image(self.value_range, self.reduction)
                return self.transform(value), None
            tensor = image.raw()
        except UnreadableImageError as error:
            if _is_place_lost(error):
                raise DataError(f"cannot read {image.source!r}: {error.reason}.") from error
            return None, error.reason
        except Image.DecompressionBombError as error:  # by the transform, of a larger model input
            return None, str(error).rstrip(".")
        if not isinstance(tensor, Tensor):
            raise ConfigError(
                f"{image.source} is a {type(tensor).__name__}; transform='as_is' takes tensors."
            )
        return tensor, None


def _is_place_lost(error: BaseException | None) -> bool:
    """Return whether the storage failed, so that images would be left out that are whole."""
    return error is not None and (
        getattr(error, "errno", None) in _LOST or _is_place_lost(error.__cause__)
    )


def unchanged(batch: Any) -> Any:
    """Return a batch as it is: collation for a loader."""
    return batch


def _collate(samples: list[tuple[Tensor | None, str | None]]) -> Batch:
    tensors = [tensor for tensor, _ in samples if tensor is not None]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ConfigError(f"Transformed images differ in shape: {sorted(shapes)}.")
    return torch.stack(tensors) if tensors else None, [reason for _, reason in samples]
