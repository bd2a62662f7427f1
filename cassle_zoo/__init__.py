"""CASSLE models for timm: augmentation-aware self-supervised backbones with their projectors.

`import cassle_zoo` registers the models with timm (at once, or as soon as timm is imported) and
imports neither torch nor timm itself; the names below load what they need on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cassle_zoo.version import __version__
from cassle_zoo.zoo.timm_hook import register_with_timm

if TYPE_CHECKING:
    from cassle_zoo.augmentation.base import Augmentation, register_augmentation
    from cassle_zoo.augmentation.descriptors import DescriptorLayout
    from cassle_zoo.augmentation.transforms import DescribedViews
    from cassle_zoo.common.errors import CassleZooError
    from cassle_zoo.features.extract import Extractor, FeatureSet, extract_features
    from cassle_zoo.features.files import load_features, load_parts, save_features
    from cassle_zoo.features.to_folder import extract_to_folder
    from cassle_zoo.features.transform import eval_transform
    from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
    from cassle_zoo.specs import ModelSpec
    from cassle_zoo.zoo.create import create_model, create_projector, list_models, model_info

__all__ = [
    "Augmentation",
    "CassleZooError",
    "ConditionedProjector",
    "DescribedViews",
    "DescriptorLayout",
    "Extractor",
    "FeatureSet",
    "ModelSpec",
    "ProjectorConfig",
    "__version__",
    "create_model",
    "create_projector",
    "eval_transform",
    "extract_features",
    "extract_to_folder",
    "list_models",
    "load_features",
    "load_parts",
    "model_info",
    "register_augmentation",
    "save_features",
]

_NAMES_OF = {
    "augmentation.base": ("Augmentation", "register_augmentation"),
    "augmentation.descriptors": ("DescriptorLayout",),
    "augmentation.transforms": ("DescribedViews",),
    "common.errors": ("CassleZooError",),
    "features.extract": ("Extractor", "FeatureSet", "extract_features"),
    "features.files": ("load_features", "load_parts", "save_features"),
    "features.to_folder": ("extract_to_folder",),
    "features.transform": ("eval_transform",),
    "projector": ("ConditionedProjector", "ProjectorConfig"),
    "specs": ("ModelSpec",),
    "zoo.create": ("create_model", "create_projector", "list_models", "model_info"),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


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
