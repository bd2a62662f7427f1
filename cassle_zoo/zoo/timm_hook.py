"""A hook that registers the models with timm without importing timm.

Importing timm takes seconds, so `import cassle_zoo` must not do it; yet afterwards
`timm.create_model("resnet50_cassle_simclr")` has to work. If timm is imported already, the models
are registered at once. Otherwise a finder on `sys.meta_path` waits for the import of timm, lets
the usual finders do the work, registers the models once timm's own code has run, and removes
itself. timm has no entry points that would do this for us.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_with_timm() -> None:
    """Register the models with timm: now if it is imported, else once it is. Idempotent."""
    if "timm" in sys.modules:
        _register()
    elif not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())


def _register() -> None:
    from cassle_zoo.zoo.registry import register_models

    register_models()


class _TimmFinder:
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        for finder in tuple(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec = find_spec(fullname, path, target)
            if spec is not None:
                self._register_after_exec(spec)
                return spec  # type: ignore[no-any-return]
        return None

    def _register_after_exec(self, spec: ModuleSpec) -> None:
        """Hook this one loader object, so that module attributes stay what they would be."""
        loader = spec.loader
        if loader is None:
            return
        exec_module = loader.exec_module

        def exec_and_register(module: ModuleType) -> None:
            del loader.exec_module  # the instance attribute; the class's method is back
            exec_module(module)
            _register()
            # Not before: find_spec also answers importlib.util.find_spec("timm"), which imports
            # nothing, and an import or a registration that failed may be tried again.
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        loader.exec_module = exec_and_register  # type: ignore[method-assign]
