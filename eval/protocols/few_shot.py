"""Few-shot classification."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cassle_zoo.common.config import POSITIVE, Range, check_fields
from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.base import EvalContext, Outcome, Task
from cassle_zoo.eval.choices import check_distinct
from cassle_zoo.eval.few_shot import Episodes, draw_episodes, episode_accuracies, mean_and_interval
from cassle_zoo.eval.solvers.few_shot import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Few-shot episodes: logistic regression on a few frozen features of a few classes.

    Attributes:
        ways: Classes of an episode.
        shots: Support images of a class; one or more numbers.
        queries: Query images of a class.
        episodes: How many.
        images: Split to draw from; all those in any split of the task by default, as the
            network has seen no labels.
        weight: Regularisation weight w; 0.5 is scikit-learn's C = 1.
        normalize: Whether to scale features to unit length first; the paper does not.
    """

    ways: Annotated[int, Range(2)] = 5
    shots: Annotated[tuple[int, ...], Range(1)] = (1, 5)
    queries: Annotated[int, Range(1)] = 16
    episodes: Annotated[int, Range(2)] = 2000
    images: Literal["all", "train", "val", "test"] = "all"
    weight: Annotated[float, POSITIVE] = 0.5
    normalize: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(self)
        check_distinct("shots", self.shots)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return mean accuracy and half its 95 % interval for every number of shots.

        Tasks with too few classes of enough images are left out.

        Raises:
            DataError: If all are, or features are not finite.
        """
        metrics: dict[str, dict[str, float]] = {}
        notes = []
        for task in context.data.tasks_of("classification"):
            try:
                drawn = self._draw(task, context.compute.seed)
            except DataError as error:
                notes.append(f"{task.name}: left out, {error}")
                continue
            metrics[task.name] = self._measure(context.features, drawn)
            few = drawn[max(drawn)].left_out
            if few:
                needed = max(drawn) + self.queries
                notes.append(f"{task.name}: {len(few)} classes of fewer than {needed} left out")
        if not metrics:
            raise DataError(f"{context.data.name} is not fit for few-shot: {'; '.join(notes)}")
        return Outcome(metrics=metrics, protocol=self._protocol(context.compute.seed, notes))

    def _draw(self, task: Task, seed: int) -> dict[int, Episodes]:
        names = task.splits if self.images == "all" else (self.images,)
        rows = torch.cat([task.splits[name] for name in names]).sort().values
        return {
            shots: draw_episodes(
                task.targets,
                rows,
                ways=self.ways,
                shots=shots,
                queries=self.queries,
                episodes=self.episodes,
                generator=torch.Generator().manual_seed(seed),
            )
            for shots in self.shots
        }

    def _measure(self, features: Tensor, drawn: dict[int, Episodes]) -> dict[str, float]:
        if self.normalize:
            features = normalize(features, dim=1)
        values: dict[str, float] = {}
        for shots, episodes in drawn.items():
            accuracies = episode_accuracies(features, episodes, self.weight)
            name = f"{self.ways}way_{shots}shot_accuracy"
            values[name], values[f"{name}_ci95"] = mean_and_interval(accuracies)
        return values

    def _protocol(self, seed: int, notes: list[str]) -> dict[str, str]:
        shots = " and ".join(map(str, self.shots))
        length = "scaled to unit length" if self.normalize else "not normalised"
        protocol = {
            "few-shot": f"{self.episodes} episodes of {self.ways} classes, {shots} support and "
            f"{self.queries} query images each, drawn without replacement from "
            f"{self.images} images, seed {seed}; ci95: half of the interval of the mean",
            "few-shot classifier": f"multinomial logistic regression, features {length}, sum of "
            f"cross-entropies + {self.weight:g} * (|weight|^2 + |bias|^2), tolerance {TOLERANCE:g}",
        }
        return protocol | ({"few-shot notes": "; ".join(notes)} if notes else {})
