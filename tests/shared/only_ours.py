"""A plugin for pytest that runs timm's own tests over the models of this zoo instead of timm's."""

import fnmatch
from typing import Any

import timm
import timm.models
from timm.models import list_models as list_all

from cassle_zoo.specs import MODEL_SPECS

OURS = sorted({spec.name for spec in MODEL_SPECS.values()})


def list_ours(filter: Any = "", module: Any = "", **options: Any) -> list[str]:
    """Do what `timm.list_models` does, but know only ours, whatever the module is."""
    found = {name.partition(".")[0]: name for name in list_all(OURS, **options)}
    names = [name for base, name in found.items() if base in OURS]
    patterns = [filter] if isinstance(filter, str) else list(filter)
    if not any(patterns):
        return names
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]


for module in (timm, timm.models):
    setattr(module, "list_models", list_ours)  # noqa: B010  assignments that mypy accepts
    setattr(module, "list_pretrained", lambda *args, **kwargs: [])  # noqa: B010
