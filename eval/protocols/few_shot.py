"""Few-shot classification: many small random problems on frozen features.

An episode draws N classes, K support and Q query images of each without replacement. A
multinomial logistic regression is fitted to the support, to its optimum, and classifies the
queries. The episodes depend only on labels and seed: they are the same for every model.

The paper's code fits one class against the rest (scikit-learn's liblinear), and draws queries with
replacement from classes with too few images; here such classes are left out.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cassle_zoo.common.config import POSITIVE, Range
from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.base import EvalContext, Outcome, Settings, Task, check_distinct
from cassle_zoo.eval.scores import Scores
from cassle_zoo.eval.solvers.few_shot import TOLERANCE, solve_episodes

_CHUNK = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """The images of episodes. The class within an episode is the position along `ways`.

    Attributes:
        support: (episodes, ways, shots) indices of images.
        query: (episodes, ways, queries) indices of images.
        left_out: Classes with fewer than shots + queries images, which are never drawn.
    """

    support: Tensor
    query: Tensor
    left_out: tuple[int, ...]


def draw_episodes(
    labels: Tensor,
    rows: Tensor,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 16,
    episodes: int = 2000,
    generator: torch.Generator,
) -> Episodes:
    """Draw episodes.

    Args:
        labels: (N,) classes of all images.
        rows: Indices of the images to draw from.
        ways: Classes of an episode, at least 2.
        shots: Support images of a class.
        queries: Query images of a class.
        episodes: Number of episodes.
        generator: A generator on the CPU.

    Raises:
        DataError: If too few classes have enough images.
    """
    own = labels[rows]
    members = {int(label): rows[own == label] for label in own.unique()}
    left_out = tuple(
        label for label, of_class in members.items() if len(of_class) < shots + queries
    )
    eligible = [label for label in members if label not in left_out]
    if len(eligible) < ways:
        raise DataError(
            f"{ways}-way episodes with {shots} support and {queries} query images a class need "
            f"{ways} classes of {shots + queries} images, but {len(eligible)} of {len(members)} "
            "classes have so many; use fewer ways, shots or queries."
        )
    drawn = torch.empty((episodes, ways, shots + queries), dtype=torch.int64)
    for episode in drawn:
        chosen = torch.randperm(len(eligible), generator=generator)[:ways].tolist()
        for way, position in enumerate(chosen):
            of_class = members[eligible[position]]
            order = torch.randperm(len(of_class), generator=generator)[: shots + queries]
            episode[way] = of_class[order]
    return Episodes(support=drawn[:, :, :shots], query=drawn[:, :, shots:], left_out=left_out)


def episode_accuracies(features: Tensor, episodes: Episodes, l2: float = 0.5) -> Tensor:
    """Fit and test every episode.

    Args:
        features: (N, D) of all images.
        episodes: The episodes.
        l2: Penalty w of the objective: sum of cross-entropies plus
            w * (|weight|^2 + |bias|^2). 0.5 is scikit-learn's C = 1.

    Returns:
        (episodes,) float64 accuracies on the queries.

    Raises:
        DataError: If features are not finite, or so large that the fits do not converge.
    """
    used = torch.cat([episodes.support.flatten(), episodes.query.flatten()]).unique()
    bad = int((~torch.isfinite(features[used])).any(1).sum())
    if bad:
        raise DataError(f"{bad} of {len(used)} feature vectors are NaN or infinite.")
    accuracies = []
    for support, query in zip(
        episodes.support.split(_CHUNK), episodes.query.split(_CHUNK), strict=True
    ):
        logits = solve_episodes(
            features[support.flatten(1)].double(),
            features[query.flatten(1)].double(),
            ways=support.shape[1],
            l2=l2,
        )
        expected = torch.arange(query.shape[1]).repeat_interleave(query.shape[2])
        accuracies.append((logits.argmax(2) == expected.to(logits.device)).double().mean(1))
    return torch.cat(accuracies)


def mean_and_interval(values: Tensor) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % interval (normal approximation)."""
    values = values.double()
    return float(values.mean()), float(1.96 * values.std() / len(values) ** 0.5)


@dataclass(frozen=True, kw_only=True)
class FewShot(Settings):
    """Few-shot episodes: logistic regression on a few frozen features of a few classes.

    Attributes:
        ways: Classes of an episode.
        shots: Support images of a class; one or more numbers.
        queries: Query images of a class.
        episodes: Number of episodes.
        images: Split to draw from; by default all splits of the task, as the network has seen no
            labels.
        l2: Penalty w; 0.5 is scikit-learn's C = 1.
        normalize: Whether to scale features to unit length first; the paper does not.
    """

    ways: Annotated[int, Range(2)] = 5
    shots: Annotated[tuple[int, ...], Range(1)] = (1, 5)
    queries: Annotated[int, Range(1)] = 16
    episodes: Annotated[int, Range(2)] = 2000
    images: Literal["all", "train", "val", "test"] = "all"
    l2: Annotated[float, POSITIVE] = 0.5
    normalize: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        check_distinct("shots", self.shots)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return mean accuracy and half its 95 % interval for every number of shots.

        Tasks with too few classes of enough images are left out.

        Raises:
            DataError: If all tasks are left out, or features are not finite.
        """
        metrics: dict[str, dict[str, float]] = {}
        notes: list[str] = []
        scores = []
        for task in context.data.tasks_of("classification"):
            try:
                drawn = self._draw(task, context.compute.seed)
            except DataError as error:
                notes.append(f"{task.name}: left out, {error}")
                continue
            metrics[task.name], accuracies = self._measure(context.features, drawn)
            rows = torch.arange(self.episodes)
            scores.append(Scores(task=task.name, unit="episode", rows=rows, values=accuracies))
            for shots, own in drawn.items():
                if few := len(own.left_out):
                    where = f"{task.name}, {shots} shot{'s' * (shots > 1)}"
                    needed = shots + self.queries
                    notes.append(f"{where}: {few} classes of fewer than {needed} images left out")
        if not metrics:
            raise DataError(f"{context.data.name} is not fit for few-shot: {'; '.join(notes)}")
        return Outcome(
            metrics=metrics,
            protocol=self._protocol(context.compute.seed, notes),
            scores=tuple(scores),
        )

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

    def _measure(
        self, features: Tensor, drawn: dict[int, Episodes]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        if self.normalize:
            features = normalize(features, dim=1)
        values: dict[str, float] = {}
        by_episode: dict[str, Tensor] = {}
        for shots, episodes in drawn.items():
            accuracies = episode_accuracies(features, episodes, self.l2)
            name = f"{self.ways}way_{shots}shot_accuracy"
            values[name], values[f"{name}_ci95"] = mean_and_interval(accuracies)
            by_episode[name] = accuracies.cpu()
        return values, by_episode

    def _protocol(self, seed: int, notes: list[str]) -> dict[str, str]:
        shots = " and ".join(map(str, self.shots))
        length = "scaled to unit length" if self.normalize else "not normalised"
        protocol = {
            "few-shot": f"{self.episodes} episodes of {self.ways} classes, {shots} support and "
            f"{self.queries} query images each, drawn without replacement from "
            f"{self.images} images, seed {seed}; ci95: half of the interval of the mean",
            "few-shot classifier": f"multinomial logistic regression, features {length}, sum of "
            f"cross-entropies + {self.l2:g} * (|weight|^2 + |bias|^2), tolerance {TOLERANCE:g}",
        }
        return protocol | ({"few-shot notes": "; ".join(notes)} if notes else {})
