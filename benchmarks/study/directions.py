"""What the main directions of features hold: how well few of them tell an image's mean colour."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.eval.base import EvalContext, Images, Outcome
from cassle_zoo.eval.metrics import r2_scores
from cassle_zoo.features.whitening import Whitening


@dataclass(frozen=True, kw_only=True)
class MainDirections:
    """Linear prediction of the mean colour from the largest principal components.

    Attributes:
        components: How many components to predict from, each of these numbers in turn.
    """

    components: Annotated[tuple[int, ...], Range(1)] = (2, 4, 8, 16, 32)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `r2_K`, at most 1, and `variance_K`, the components' share of the variance.

        Components and least squares are fitted to `EvalData.seen_images`; R², the
        mean of that of red, green and blue, is of those that classification tasks test on.

        Raises:
            ConfigError: If there are more components than features are wide.
            DataError: If there are too few images for as many components.
        """
        data, features = context.data, context.features
        train = data.seen_images()
        test = torch.cat([task.splits["test"] for task in data.tasks_of("classification")]).unique()
        seen, wanted = mean_colours(data.images, train), mean_colours(data.images, test)
        whitening = Whitening.fit(features[train], max(self.components))
        largest = whitening(features).double()
        variances = whitening.projection.square().sum(0).reciprocal()
        shares = (variances / features[train].double().var(0).sum()).cumsum(0)
        metrics: dict[str, float] = {}
        for count in self.components:
            inputs = largest[:, :count]
            weights = torch.linalg.lstsq(inputs[train], seen - seen.mean(0)).solution
            predicted = inputs[test] @ weights + seen.mean(0)
            metrics[f"r2_{count}"] = float(r2_scores(predicted, wanted).mean())
            metrics[f"variance_{count}"] = float(shares[count - 1])
        rule = "mean colour (R, G, B) from the largest principal components, least squares; mean R²"
        return Outcome(metrics={"colour": metrics}, protocol={"main directions": rule})


def mean_colours(images: Images, indices: Tensor) -> Tensor:
    """Return the means of red, green and blue of images, (N, 3) float64 in [0, 1]."""
    rows = [
        pil_to_tensor(images[index][0].convert("RGB")).double().mean((1, 2)) / 255
        for index in indices.tolist()
    ]
    return torch.stack(rows)
