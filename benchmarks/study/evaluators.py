"""The study's evaluators by name, and the neighbours for its galleries."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from cassle_zoo.common.config import Range
from cassle_zoo.eval.base import EvalContext, Evaluator, Images, Outcome, Settings
from cassle_zoo.eval.metrics import r2_scores
from cassle_zoo.eval.protocols.emoji64 import Emoji64Suite
from cassle_zoo.eval.protocols.equivariance import Equivariance
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.linear_probe import LinearProbe
from cassle_zoo.eval.protocols.retrieval import Retrieval
from cassle_zoo.eval.protocols.sensitivity import Sensitivity
from cassle_zoo.eval.protocols.spectrum import Spectrum
from cassle_zoo.features.nearest import nearest_neighbours
from cassle_zoo.features.whitening import Whitening

WHITENED = 128  # principal components
GALLERY_TASKS = ("flags", "identity", "skin_tone")
NEIGHBOURS = 5
MAX_QUERIES = 200


@dataclass(frozen=True, kw_only=True)
class MainDirections(Settings):
    """Linear prediction of an image's mean colour from the largest principal components.

    Attributes:
        components: Numbers of components to predict from.
    """

    components: Annotated[tuple[int, ...], Range(1)] = (2, 4, 8, 16, 32)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `r2_K`, at most 1, and `variance_K`, the fraction of the variance explained.

        Components and least squares are fitted to `EvalData.seen_images`; R², the mean
        over red, green and blue, is of the test images of the classification tasks.

        Raises:
            ConfigError: If there are more components than the features have dimensions.
            DataError: If there are too few images for that many components.
        """
        data, features = context.data, context.features
        train = data.seen_images()
        test = torch.cat([task.splits["test"] for task in data.tasks_of("classification")]).unique()
        seen, wanted = mean_colours(data.images, train), mean_colours(data.images, test)
        whitening = Whitening.fit(features[train], max(self.components))
        largest = whitening(features).double()
        variances = whitening.projection.square().sum(0).reciprocal()
        fractions = (variances / features[train].double().var(0).sum()).cumsum(0)
        metrics: dict[str, float] = {}
        for count in self.components:
            inputs = largest[:, :count]
            weights = torch.linalg.lstsq(inputs[train], seen - seen.mean(0)).solution
            predicted = inputs[test] @ weights + seen.mean(0)
            metrics[f"r2_{count}"] = float(r2_scores(predicted, wanted).mean())
            metrics[f"variance_{count}"] = float(fractions[count - 1])
        rule = "mean colour (R, G, B) from the largest principal components, least squares; mean R²"
        return Outcome(metrics={"colour": metrics}, protocol={"main directions": rule})


def mean_colours(images: Images, indices: Tensor) -> Tensor:
    """Return the means of red, green and blue of images, (N, 3) float64 in [0, 1]."""
    rows = [
        pil_to_tensor(images[index][0].convert("RGB")).double().mean((1, 2)) / 255
        for index in indices.tolist()
    ]
    return torch.stack(rows)


GRID_EVALUATORS: dict[str, Evaluator] = {"linear-probe": LinearProbe()}
EVALUATORS: dict[str, Evaluator] = {
    "emoji64": Emoji64Suite(),
    "sensitivity": Sensitivity(figures=False),
    "equivariance": Equivariance(figures=False),
    "spectrum": Spectrum(figures=False),
    "main-directions": MainDirections(),
    "knn-whitened": KNN(whiten=WHITENED),
    "retrieval-whitened": Retrieval(ks=(1,), classification="none", examples=0, whiten=WHITENED),
}


def neighbours(context: EvalContext) -> dict[str, list[list[int]]]:
    """Return rows of image indices by task: a query, then the `NEIGHBOURS` nearest to it.

    Queries of classification tasks are test images, their gallery is train and validation images.
    At most `MAX_QUERIES` are taken, evenly spaced, so that galleries can compare models later.
    """
    found = {}
    for task in context.data.tasks:
        if task.name in GALLERY_TASKS:
            splits = task.splits
            if task.kind == "retrieval":
                queries, gallery = splits["query"], splits["gallery"]
            else:
                queries, gallery = splits["test"], torch.cat([splits["train"], splits["val"]])
            count = min(MAX_QUERIES, len(queries))
            chosen = queries[torch.arange(count) * len(queries) // count]
            features = context.features
            count = min(NEIGHBOURS, len(gallery))
            _, places = nearest_neighbours(features[chosen], features[gallery], count)
            found[task.name] = torch.cat([chosen[:, None], gallery[places]], dim=1).tolist()
    return found
