"""Pictures with objects in them, as detectors and their test take them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from cassle_zoo.errors import DataError
from cassle_zoo.eval.detection_ap import Boxes
from cassle_zoo.eval.seeded import Draw, seed_of
from cassle_zoo.images import to_rgb


class DetectionPictures(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Pictures with their objects, flipped by a coin that belongs to seed, epoch and picture."""

    def __init__(self, pictures: Any, targets: Tensor, seed: int | None) -> None:
        """Keep what is read; without a seed nothing is flipped.

        Args:
            pictures: By index.
            targets: (N, K, 6) objects, see `cassle_zoo.eval.base.Task`.
            seed: Of the coins.
        """
        self.pictures = pictures
        self.targets = targets
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a picture (3, H, W) in [0, 1] and torchvision's form of its objects.

        Raises:
            DataError: If it cannot be read.
        """
        epoch, index = draw
        try:
            image: Tensor = pil_to_tensor(to_rgb(self.pictures[index][0])).float() / 255
        except (OSError, SyntaxError, DataError) as error:
            raise DataError(f"picture {index} cannot be read: {error}") from error
        rows = self.targets[index]
        rows = rows[rows[:, 0] >= 0]
        boxes = rows[:, 1:5].clone()
        if self.seed is not None and seed_of(self.seed, epoch, index) % 2:
            image = image.flip(2)
            boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": rows[:, 0].long() + 1}


def objects_of(targets: Tensor, rows: Tensor) -> Sequence[Boxes]:
    """Return the objects in pictures, from (N, K, 6) rows of class, box, and difficult."""
    parts = (target[target[:, 0] >= 0] for target in targets[rows])
    return [
        Boxes(boxes=part[:, 1:5], labels=part[:, 0].long(), difficult=part[:, 5] > 0)
        for part in parts
    ]
