"""All evaluators, by the names of their commands."""

from collections.abc import Mapping
from types import MappingProxyType

from cassle_zoo.eval.base import Evaluator
from cassle_zoo.eval.protocols.detection import Detection
from cassle_zoo.eval.protocols.emoji64 import Emoji64Suite
from cassle_zoo.eval.protocols.equivariance import Equivariance
from cassle_zoo.eval.protocols.few_shot import FewShot
from cassle_zoo.eval.protocols.finetune import Finetune
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.linear_probe import LinearProbe
from cassle_zoo.eval.protocols.regression import Regression
from cassle_zoo.eval.protocols.retrieval import Retrieval
from cassle_zoo.eval.protocols.semi_supervised import SemiSupervised
from cassle_zoo.eval.protocols.sensitivity import Sensitivity
from cassle_zoo.eval.protocols.spectrum import Spectrum
from cassle_zoo.eval.protocols.view_retrieval import ViewRetrieval

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
        "view-retrieval": ViewRetrieval,
    }
)
