"""The numbers on every model card: linear probe, k-NN and retrieval on emoji64."""

from dataclasses import dataclass, field

from cassle_zoo.common.errors import DataError
from cassle_zoo.eval.base import EvalContext, Outcome
from cassle_zoo.eval.datasets.emoji64 import CLASSIFICATION_TASKS, RETRIEVAL_TASKS
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.linear_probe import LinearProbe
from cassle_zoo.eval.protocols.retrieval import Retrieval


@dataclass(frozen=True, kw_only=True)
class Emoji64Suite:
    """The five emoji64 tasks of the model cards: linear probe, k-NN and retrieval.

    Attributes:
        linear: Settings of the linear probe.
        knn: Settings of k-NN.
    """

    linear: LinearProbe = field(default_factory=LinearProbe)
    knn: KNN = field(default_factory=KNN)

    def evaluate(self, context: EvalContext) -> Outcome:
        """Return top-1 of probe and k-NN, recall@1 and mAP, by task; series of the probe.

        Raises:
            DataError: If the dataset does not have emoji64's tasks.
        """
        data = context.data
        if {task.name for task in data.tasks} != {*CLASSIFICATION_TASKS, *RETRIEVAL_TASKS}:
            raise DataError(
                f"emoji64 is measured on emoji64's tasks, but {data.name} has the tasks "
                f"{', '.join(task.name for task in data.tasks)}; use linear-probe, knn or "
                "retrieval."
            )
        retrieval = Retrieval(ks=(1,), classification="none", examples=0)
        # First, since its whitening may not fit the features, and linear probes take long.
        knn = self.knn.evaluate(context)
        outcomes = [self.linear.evaluate(context), knn, retrieval.evaluate(context)]
        metrics: dict[str, dict[str, float]] = {}
        for outcome in outcomes:
            for task, values in outcome.metrics.items():
                metrics.setdefault(task, {}).update(values)
        protocol = {key: value for o in outcomes for key, value in o.protocol.items()}
        series = {key: values for o in outcomes for key, values in o.series.items()}
        scores = tuple(own for o in outcomes for own in o.scores)
        return Outcome(metrics=metrics, protocol=protocol, series=series, scores=scores)
