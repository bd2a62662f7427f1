"""The numbers that every model of the zoo is described with."""

from dataclasses import dataclass, field

from cassle_zoo.eval.base import Evaluator, Outcome, Subject
from cassle_zoo.eval.evaluators.knn import KNN
from cassle_zoo.eval.evaluators.linear_probe import LinearProbe
from cassle_zoo.eval.evaluators.retrieval import Retrieval


@dataclass(frozen=True, kw_only=True)
class Emoji64Suite:
    """The five emoji64 tasks of the model cards: linear probe, k-NN and retrieval.

    Attributes:
        linear: Settings of the linear probe.
        knn: Settings of k-NN.
    """

    linear: LinearProbe = field(default_factory=LinearProbe)
    knn: KNN = field(default_factory=KNN)

    def evaluate(self, subject: Subject) -> Outcome:
        """Return top-1 of probe and k-NN, recall@1 and mAP, by task; series of the probe."""
        found = Retrieval(ks=(1,), classification="none", examples=0)
        parts: tuple[Evaluator, ...] = (self.linear, self.knn, found)
        outcomes = [part.evaluate(subject) for part in parts]
        metrics: dict[str, dict[str, float]] = {}
        for outcome in outcomes:
            for task, values in outcome.metrics.items():
                metrics.setdefault(task, {}).update(values)
        protocol = {key: value for o in outcomes for key, value in o.protocol.items()}
        series = {key: values for o in outcomes for key, values in o.series.items()}
        return Outcome(metrics=metrics, protocol=protocol, series=series)
