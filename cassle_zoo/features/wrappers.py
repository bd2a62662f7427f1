"""Models inside wrappers: DataParallel, averaged and compiled models, `nn.Sequential`, adapters."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from cassle_zoo.common.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Unwrapped:
    """A model without the wrappers that only pass on its output.

    Attributes:
        network: What computes: the model, or a composition around it such as
            ``nn.Sequential(model, head)``.
        model: The timm model, which knows its classifier and stages; `None` if there is none, or
            several.
        config: timm's configuration, which says how images are prepared; `None` if there is none,
            or several that disagree.
        what: Name of the type of the given object, for messages.
        several: The timm models, if there are several, such as a student and its teacher.
    """

    network: nn.Module
    model: nn.Module | None
    config: dict[str, Any] | None
    what: str
    several: tuple[nn.Module, ...] = ()

    @property
    def has_classifier(self) -> bool:
        """Whether the model ends in a classifier, whose input the features are."""
        return bool(getattr(self.model, "num_classes", 0)) and hasattr(self.model, "forward_head")


def unwrap(model: Any) -> Unwrapped:
    """Find the model inside wrappers.

    DataParallel, DistributedDataParallel, AveragedModel, timm's ModelEma, compiled models, PEFT's
    models and an ``nn.Sequential`` of one module pass on what their model returns, so they are
    removed. In other modules, the timm model among their parts is found.

    Args:
        model: A module, or timm's old ModelEma, which is not a module.

    Raises:
        ConfigError: It is not a module.
    """
    what = type(model).__name__
    while (inner := _inner(model)) is not None:
        model = inner
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the model is a {what}; give a torch.nn.Module, or the name of a model.")
    found = list(_outermost(model))
    configs = [dict(timm_model.pretrained_cfg) for timm_model in found]
    agree = bool(configs) and all(_prepares(c) == _prepares(configs[0]) for c in configs)
    return Unwrapped(
        network=model,
        model=found[0] if len(found) == 1 else _like_timms(model) if not found else None,
        config=configs[0] if agree else None,
        what=what,
        several=tuple(found) if len(found) > 1 else (),
    )


@dataclass(eq=False)
class Passes:
    """What happened in a timm model while a module around it ran.

    Attributes:
        classifiers: How many classifiers the model has: distilled models have two, whose outputs
            are averaged.
        classifier_inputs: What they were given.
        outputs: What the model returned.
    """

    classifiers: int = 1
    classifier_inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)


@contextmanager
def watched(model: nn.Module) -> Iterator[Passes]:
    """Record this thread's passes through a timm model inside another module.

    Args:
        model: The timm model.

    Yields:
        The record, filled as passes happen.
    """
    timm_model: Any = model
    seen = Passes()
    thread = threading.get_ident()

    def before(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread and arguments and isinstance(arguments[0], Tensor):
            seen.classifier_inputs.append(arguments[0])

    def after(_module: nn.Module, _arguments: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            seen.outputs.append(output)

    handles = [model.register_forward_hook(after)]
    if getattr(model, "num_classes", 0):
        found = timm_model.get_classifier()
        classifiers = [found] if isinstance(found, nn.Module) else list(found)
        seen.classifiers = len(classifiers)
        handles += [each.register_forward_pre_hook(before) for each in classifiers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _inner(model: Any) -> Any:
    """Return the module whose output a wrapper passes on unchanged; `None` if it is no wrapper."""
    # Compiled models take every attribute from their model, so they come first.
    if (compiled := getattr(model, "_orig_mod", None)) is not None:
        return compiled
    if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
        return model.module
    if isinstance(model, nn.Sequential) and type(model) is nn.Sequential and len(model) == 1:
        return model[0]
    kind = type(model).__name__
    if kind.startswith("ModelEma"):  # timm's, old and new
        return getattr(model, "module", None) or getattr(model, "ema", None)
    if kind.startswith("FullyShardedDataParallel"):
        return model.module
    if not hasattr(model, "pretrained_cfg") and callable(getattr(model, "get_base_model", None)):
        return model.get_base_model()  # of PEFT
    return None


def _like_timms(model: nn.Module) -> nn.Module | None:
    """Return the model if it has timm's methods, even without timm's configuration."""
    names = ("num_classes", "forward_features", "forward_head")
    return model if all(hasattr(model, name) for name in names) else None


def _prepares(config: dict[str, Any]) -> list[Any]:
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    return [config.get(key) for key in keys]


def _outermost(model: nn.Module) -> Iterator[Any]:
    """Yield the modules with a configuration of timm that are inside no other such module."""
    module = getattr(model, "_orig_mod", model)
    if getattr(module, "pretrained_cfg", None):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)
