"""PCA whitening: every principal component of the features counts alike in a cosine.

Raw cosines compare mostly the few directions along which features spread most; docs/study.md
measures what whitening changes. See Jégou and Chum, "Negative evidences and co-occurrences in image
retrieval: the benefit of PCA and whitening", ECCV 2012.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.moments import CHUNK, check_features, feature_mean, second_moments

_ENOUGH = 2  # features per component; the last variances of fewer are nearly 0 by chance


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """An affine map after which the features that it was fitted to have unit covariance.

    Attributes:
        mean: (D,) float64.
        projection: (D, K) float64: principal directions, divided by their standard deviations.
    """

    mean: Tensor
    projection: Tensor

    @classmethod
    def fit(cls, features: Tensor, components: int, *, chunk: int = CHUNK) -> "Whitening":
        """Fit to features, for example of the gallery to be searched; labels play no part.

        Args:
            features: (N, D), N at least 2 K.
            components: K, how many principal components to keep; at most D.
            chunk: Rows at a time.

        Raises:
            ConfigError: If `components` is not in [1, D].
            DataError: If features are not finite, or have too few rows or varying directions.
        """
        check_features(features)
        count, width = features.shape
        if not 1 <= components <= width:
            raise ConfigError(
                f"{components} components: expected 1 to {width}, the width of the features."
            )
        if count < _ENOUGH * components:
            raise DataError(
                f"whitening to {components} components needs {_ENOUGH * components} images, got "
                f"{count}; use at most {count // _ENOUGH} components."
            )
        mean = feature_mean(features, chunk)
        moments = second_moments(features, mean, chunk) / (count - 1)
        variances, directions = (found.flip(-1) for found in torch.linalg.eigh(moments))
        # Rounding of equal features leaves variance too.
        noise = torch.finfo(torch.float64).eps * width * torch.trace(moments + mean.outer(mean))
        rank = int((variances > noise).sum())
        if rank < components:
            raise DataError(
                f"the features vary in {rank} directions only; {components} components were asked."
            )
        kept = slice(components)
        return cls(mean=mean, projection=directions[:, kept] / variances[kept].sqrt())

    def __call__(self, features: Tensor, *, chunk: int = CHUNK) -> Tensor:
        """Return whitened features.

        Args:
            features: (N, D), on the device of those fitted to.
            chunk: Rows at a time.

        Returns:
            (N, K) float32.

        Raises:
            DataError: If D is another.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise DataError(
                f"features {tuple(features.shape)}: expected (N, {len(self.mean)}), as fitted to."
            )
        parts = [
            ((part.double() - self.mean) @ self.projection).float()
            for part in features.split(chunk)
        ]
        return torch.cat(parts)


def whitened(features: Tensor, data: EvalData, components: int | None) -> Tensor:
    """Return the features of a dataset, whitened; as they are if `components` is None.

    Fitted without labels to the images that `seen_images` names.

    Args:
        features: (N, D), of all images.
        data: The dataset.
        components: How many principal components to keep.

    Raises:
        ConfigError: See `Whitening.fit`.
        DataError: See `Whitening.fit`.
    """
    if components is None:
        return features
    return Whitening.fit(features[seen_images(data)], components)(features)


def seen_images(data: EvalData) -> Tensor:
    """Return the indices of the images that may be fitted to.

    Training and validation images of all classification tasks; the galleries of retrieval tasks
    if there are none.
    """
    names: tuple[str, ...] = ("train", "val")
    if not any(task.kind == "classification" for task in data.tasks):
        names = ("gallery",)
    seen = [t.splits[name] for t in data.tasks for name in names if name in t.splits]
    unique: Tensor = torch.cat(seen).unique()
    return unique
