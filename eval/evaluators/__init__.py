"""Evaluators by the name of their command."""

from collections.abc import Mapping
from types import MappingProxyType

from cassle_zoo.eval.base import Evaluator
from cassle_zoo.eval.evaluators.detection import Detection
from cassle_zoo.eval.evaluators.emoji64 import Emoji64Suite
from cassle_zoo.eval.evaluators.equivariance import Equivariance
from cassle_zoo.eval.evaluators.few_shot import FewShot
from cassle_zoo.eval.evaluators.finetune import Finetune
from cassle_zoo.eval.evaluators.knn import KNN
from cassle_zoo.eval.evaluators.linear_probe import LinearProbe
from cassle_zoo.eval.evaluators.regression import Regression
from cassle_zoo.eval.evaluators.retrieval import Retrieval
from cassle_zoo.eval.evaluators.semi_supervised import SemiSupervised
from cassle_zoo.eval.evaluators.sensitivity import Sensitivity
from cassle_zoo.eval.evaluators.spectrum import Spectrum

EVALUATORS: Mapping[str, type[Evaluator]] = MappingProxyType(
    {
        "emoji64": Emoji64Suite,
        "linear-probe": LinearProbe,
        "knn": KNN,
        "few-shot": FewShot,
        "semi-supervised": SemiSupervised,
        "finetune": Finetune,
        "detection": Detection,
        "retrieval": Retrieval,
        "sensitivity": Sensitivity,
        "equivariance": Equivariance,
        "spectrum": Spectrum,
        "regression": Regression,
    }
)
