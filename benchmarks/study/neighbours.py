"""The nearest neighbours of fixed queries, recorded so that galleries can compare models later."""

import torch

from cassle_zoo.eval.base import EvalContext, Task
from cassle_zoo.features.nearest import nearest_neighbours

SHOWN = 5
MAX_QUERIES = 200
TASKS = ("flags", "identity", "skin_tone")


def neighbours(context: EvalContext) -> dict[str, list[list[int]]]:
    """Return rows of indices of images by task: a query, then the `SHOWN` nearest to it.

    Queries of classification tasks are test images, looked up among those to train and validate
    on; at most `MAX_QUERIES`, evenly spread.
    """
    found = {}
    for task in context.data.tasks:
        if task.name in TASKS:
            queries, gallery = _sides(task)
            count = min(MAX_QUERIES, len(queries))
            chosen = queries[torch.arange(count) * len(queries) // count]
            features = context.features
            _, places = nearest_neighbours(
                features[chosen], features[gallery], min(SHOWN, len(gallery))
            )
            found[task.name] = torch.cat([chosen[:, None], gallery[places]], dim=1).tolist()
    return found


def _sides(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    if task.kind == "retrieval":
        return task.splits["query"], task.splits["gallery"]
    return task.splits["test"], torch.cat([task.splits["train"], task.splits["val"]])
