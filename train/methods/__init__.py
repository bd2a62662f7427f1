"""SSL methods. A method is one module here and one line in METHODS."""

from cassle_zoo.train.methods.base import ConditioningConfig, Method, MethodConfig, Views
from cassle_zoo.train.methods.simclr import SimCLRConfig

METHODS: dict[str, type[MethodConfig]] = {
    "simclr": SimCLRConfig,
}

__all__ = ["METHODS", "ConditioningConfig", "Method", "MethodConfig", "Views"]
