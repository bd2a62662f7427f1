"""A cheap check of the features during training: k-NN accuracy, and whether they collapse."""

import contextlib
import itertools
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.bands import ToBands, open_channels, open_scaled
from cassle_zoo.common.images import Array, UnreadableImageError
from cassle_zoo.features.extract import Extractor
from cassle_zoo.features.nearest import knn_predict
from cassle_zoo.features.transform import reduction_for

_BATCH = 100


class Monitor:
    """Classifies half of a fixed set of training images by their neighbours in the other half."""

    def __init__(
        self, dataset: Any, augment: AugmentConfig, samples: int, *, fast: bool = False
    ) -> None:
        """Choose up to `samples` images, evenly spread over the dataset (the first of a stream).

        Args:
            dataset: Yields (PIL image, label).
            augment: Size, mean and standard deviation of the network's input.
            samples: How many images to look at.
            fast: Whether large JPEGs may be decoded smaller. Whole photographs can take longer than
                other processes wait.
        """
        self.dataset = dataset
        self.samples = samples
        self.channels = augment.channels
        self.transform = create_transform(
            input_size=(augment.channels, augment.size, augment.size),
            interpolation="bicubic",
            crop_pct=1.0,
            mean=augment.mean,
            std=augment.std,
        )
        self.reduction = reduction_for(self.transform) if fast else None

    def __call__(self, backbone: nn.Module, device: torch.device) -> dict[str, float]:
        """Measure a backbone; its mode (training or not) is restored.

        Returns:
            `feature_std`: mean over the D dimensions of the standard deviation of L2-normalised
            features, times sqrt(D): 0 if all features are alike, near 1 if they are spread out.
            `knn_top1`: accuracy of k-NN, if the images have labels.
            Nothing if fewer than two images can be read.
        """
        extractor = Extractor(backbone, device=device, transform="as_is")
        features: list[Tensor] = []
        labels: list[int] = []
        items = self._items()
        while batch := list(itertools.islice(items, _BATCH)):
            images, batch_labels = zip(*batch, strict=True)
            features.append(extractor.compute(torch.stack(images))["pooled"])
            labels += batch_labels
        if len(labels) < 2:
            return {}
        table = torch.cat(features)
        unit = nn.functional.normalize(table, dim=1)
        result = {"feature_std": float(unit.std(dim=0).mean() * unit.shape[1] ** 0.5)}
        target = torch.tensor(labels)
        if target.min() >= 0 and target.min() < target.max() and len(target) >= 4:
            predicted = knn_predict(
                table[::2], target[::2], table[1::2], num_classes=int(target.max()) + 1
            )
            result["knn_top1"] = float((predicted == target[1::2]).float().mean())
        return result

    def _items(self) -> Iterator[tuple[Tensor, int]]:
        is_stream = isinstance(self.dataset, IterableDataset)
        chosen = itertools.islice(self.dataset, self.samples) if is_stream else self._spread()
        for image, label in chosen:
            pixels: Any = open_channels(image, self.channels)
            if not isinstance(pixels, Image.Image):
                pixels = ToBands(self.channels)(pixels)
            # Datasets of the Hub have labels of any kind, such as texts.
            yield self.transform(pixels), int(label) if isinstance(label, Integral) else -1

    def _spread(self) -> Iterator[tuple[Image.Image | Array, Any]]:
        count = min(self.samples, len(self.dataset))
        encoded = getattr(self.dataset, "encoded", lambda _: None)
        for index in range(count):
            number = index * len(self.dataset) // count
            # The loop reports bad images; here they are only left out.
            with contextlib.suppress(UnreadableImageError, OSError):
                if (source := encoded(number)) is None:
                    yield self.dataset[number]
                else:
                    image, _ = open_scaled(source, self.channels, self.reduction)
                    yield image, self.dataset.labels[number]
