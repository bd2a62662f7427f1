"""Few-shot classification: many small random problems on frozen features.

An episode draws N classes, K support and Q query images of each without replacement. A
multinomial logistic regression is fitted to the support, to its optimum, and asked for the queries.
The episodes depend on the labels and the seed alone: they are the same for every model.

The paper's code fits one class against the rest (scikit-learn's liblinear), and draws the queries
of classes with too few images with replacement, which are left out here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.solvers.few_shot import solve_episodes

_CHUNK = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """Which images take part. The class within an episode is the position along `ways`.

    Attributes:
        support: (episodes, ways, shots) indices of images.
        query: (episodes, ways, queries) indices of images.
        left_out: Classes with fewer than shots + queries images, which never take part.
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
        episodes: How many.
        generator: Of random numbers, on the CPU.

    Raises:
        ConfigError: If a number is too small.
        DataError: If too few classes have enough images.
    """
    for name, value, low in (
        ("ways", ways, 2),
        ("shots", shots, 1),
        ("queries", queries, 1),
        ("episodes", episodes, 2),
    ):
        if value < low:
            raise ConfigError(f"{name} must be at least {low}, got {value}.")
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
            "classes have so many."
        )
    drawn = torch.empty((episodes, ways, shots + queries), dtype=torch.int64)
    for episode in drawn:
        chosen = torch.randperm(len(eligible), generator=generator)[:ways].tolist()
        for way, position in enumerate(chosen):
            of_class = members[eligible[position]]
            order = torch.randperm(len(of_class), generator=generator)[: shots + queries]
            episode[way] = of_class[order]
    return Episodes(support=drawn[:, :, :shots], query=drawn[:, :, shots:], left_out=left_out)


def episode_accuracies(features: Tensor, episodes: Episodes, weight: float = 0.5) -> Tensor:
    """Fit and test every episode.

    Args:
        features: (N, D) of all images.
        episodes: What to fit and test on.
        weight: Regularisation weight w of the objective: sum of cross-entropies plus
            w * (|weight|^2 + |bias|^2). 0.5 is scikit-learn's C = 1.

    Returns:
        (episodes,) float64 shares of queries that are classified rightly.

    Raises:
        DataError: If features are not finite, or so large that the fits do not converge.
        ConfigError: If `weight` is not positive.
    """
    if not weight > 0:
        raise ConfigError(f"weight must be positive, got {weight}.")
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
            weight=weight,
        )
        expected = torch.arange(query.shape[1]).repeat_interleave(query.shape[2])
        accuracies.append((logits.argmax(2) == expected.to(logits.device)).double().mean(1))
    return torch.cat(accuracies)


def mean_and_interval(values: Tensor | Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % interval (normal approximation)."""
    values = torch.as_tensor(values, dtype=torch.float64)
    return float(values.mean()), float(1.96 * values.std() / len(values) ** 0.5)
