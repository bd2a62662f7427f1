"""Images with objects in them, as detectors and their test take them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import to_rgb
from cassle_zoo.common.seeds import Draw, seed_of
from cassle_zoo.eval.detection_ap import Boxes


class DetectionImages(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with their objects, flipped by a coin that belongs to seed, epoch and image."""

    def __init__(self, images: Any, targets: Tensor, seed: int | None) -> None:
        """Keep what is read; without a seed nothing is flipped.

        Args:
            images: By index.
            targets: (N, K, 6) objects, see `cassle_zoo.eval.base.Task`.
            seed: Of the coins.
        """
        self.images = images
        self.targets = targets
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return an image (3, H, W) in [0, 1] and torchvision's form of its objects.

        Raises:
            DataError: If it cannot be read.
        """
        epoch, index = draw
        try:
            image: Tensor = pil_to_tensor(to_rgb(self.images[index][0])).float() / 255
        except (OSError, SyntaxError, DataError) as error:
            raise DataError(f"image {index} cannot be read: {error}") from error
        rows = self.targets[index]
        rows = rows[rows[:, 0] >= 0]
        boxes = rows[:, 1:5].clone()
        if self.seed is not None and seed_of(self.seed, epoch, index) % 2:
            image = image.flip(2)
            boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": rows[:, 0].long() + 1}


def objects_of(targets: Tensor, rows: Tensor) -> Sequence[Boxes]:
    """Return the objects in images, from (N, K, 6) rows of class, box, and difficult."""
    parts = (target[target[:, 0] >= 0] for target in targets[rows])
    return [
        Boxes(boxes=part[:, 1:5], labels=part[:, 0].long(), difficult=part[:, 5] > 0)
        for part in parts
    ]
