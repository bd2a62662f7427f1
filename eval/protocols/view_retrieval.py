"""Retrieval of views: finding an image by an augmented view of it; needs no labels."""

from dataclasses import dataclass
from typing import Annotated

import torch

from cassle_zoo.common.config import Range
from cassle_zoo.common.errors import ConfigError, unknown_name
from cassle_zoo.eval.augmented import views
from cassle_zoo.eval.base import EvalContext, Outcome, Settings, check_distinct
from cassle_zoo.eval.protocols.retrieval import retrieve
from cassle_zoo.eval.scores import Scores


@dataclass(frozen=True, kw_only=True)
class ViewRetrieval(Settings):
    """Retrieval of images by augmented views of them: invariance and identity, without labels.

    Attributes:
        images: Number of images to draw from the test images, or from all if there are none; the
            more, the lower the recall.
        augmentations: Applied one at a time at full strength, followed by `recipe`, all of
            training's at once.
        ks: The k of recall@k.
    """

    images: Annotated[int, Range(2)] = 1000
    augmentations: tuple[str, ...] = views.AUGMENTATIONS
    ks: Annotated[tuple[int, ...], Range(1)] = (1, 5)

    def __post_init__(self) -> None:
        """Check the numbers and names."""
        super().__post_init__()
        check_distinct("ks", self.ks)
        check_distinct("augmentations", self.augmentations)
        for name in self.augmentations:
            if name not in views.AUGMENTATIONS:
                raise unknown_name("augmentation", name, views.AUGMENTATIONS)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return `recall@k` and `mrr` (mean of 1/rank) of every augmentation, and of the recipe.

        Raises:
            ConfigError: If a k is not less than the number of images.
            DataError: If there are fewer than two images.
        """
        recipe = views.context_recipe(context)
        indices = views.draw_test_images(context.data, self.images, context.compute.seed)
        if max(self.ks) >= len(indices):
            raise ConfigError(f"ks {max(self.ks)}: there are only {len(indices)} images to find.")
        names = (views.ORIGINAL, *self.augmentations, views.RECIPE)
        kinds = [views.make_view(name, recipe) for name in names]
        features, _ = views.embed_views(context, indices, kinds)
        own = torch.arange(len(indices))
        scores = []
        for name, queries in zip(names[1:], features[1:], strict=True):
            found = retrieve(queries, own, features[0], own, ks=self.ks)
            recalls = {f"recall@{k}": found.recall[k] for k in self.ks}
            values = {**recalls, "mrr": found.average_precision}
            scores.append(Scores(task=name, unit="query", rows=indices, values=values))
        protocol = {
            "view retrieval": (
                f"{len(indices)} images drawn from the test parts (from all if there are none); "
                "the query is an augmented view at full strength, to be found is its image among "
                "all of them, not augmented, by cosine of their features; recall@k: it is among "
                "the k nearest; mrr: mean of 1/rank; images are central squares, bilinear, "
                f"{recipe.size} px"
            )
        }
        metrics = {of_view.task: of_view.means() for of_view in scores}
        return Outcome(metrics=metrics, protocol=protocol, scores=tuple(scores))
