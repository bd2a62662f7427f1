"""CASSLE models for timm: augmentation-aware self-supervised backbones with their projectors.

`import cassle_zoo` makes the models known to timm (at once, or as soon as timm is imported) and
imports neither torch nor timm itself; the names below load what they need on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cassle_zoo._timm_hook import register_with_timm

if TYPE_CHECKING:
    from cassle_zoo.descriptors import DescriptorLayout
    from cassle_zoo.errors import CassleZooError
    from cassle_zoo.factory import create_model, create_projector, list_models, model_info
    from cassle_zoo.feature_files import load_features, save_features
    from cassle_zoo.features import FeatureSet, eval_transform, extract_features
    from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
    from cassle_zoo.specs import ModelSpec
    from cassle_zoo.transforms import DescribedViews

__version__ = "0.1.0"

__all__ = [
    "CassleZooError",
    "ConditionedProjector",
    "DescribedViews",
    "DescriptorLayout",
    "FeatureSet",
    "ModelSpec",
    "ProjectorConfig",
    "__version__",
    "create_model",
    "create_projector",
    "eval_transform",
    "extract_features",
    "list_models",
    "load_features",
    "model_info",
    "save_features",
]

_MODULE_OF = {
    "CassleZooError": "errors",
    "ConditionedProjector": "projector",
    "DescribedViews": "transforms",
    "DescriptorLayout": "descriptors",
    "FeatureSet": "features",
    "ModelSpec": "specs",
    "ProjectorConfig": "projector",
    "create_model": "factory",
    "create_projector": "factory",
    "eval_transform": "features",
    "extract_features": "features",
    "list_models": "factory",
    "load_features": "feature_files",
    "model_info": "factory",
    "save_features": "feature_files",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Include the names that are not imported yet."""
    return sorted({*globals(), *__all__})


register_with_timm()
