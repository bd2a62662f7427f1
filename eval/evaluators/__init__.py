"""Evaluators by the name of their command."""

from collections.abc import Mapping
from types import MappingProxyType

from cassle_zoo.eval.base import Evaluator
from cassle_zoo.eval.evaluators.knn import KNN

EVALUATORS: Mapping[str, type[Evaluator]] = MappingProxyType({"knn": KNN})
