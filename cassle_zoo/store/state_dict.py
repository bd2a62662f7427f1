"""Reads all or nothing: what timm's, torch's and json's own checks leave open."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cassle_zoo.common.errors import ModelFolderError


def check_backbone_keys(keys: Iterable[str], model: nn.Module) -> None:
    """Check that weights are exactly a timm model's, its classifier left out.

    Args:
        keys: Names of the weights.
        model: The timm model that they are loaded into.

    Raises:
        ModelFolderError: If names are missing or unexpected.
    """
    cfg: Any = model.pretrained_cfg
    classifier = cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    prefixes = tuple(f"{head}." for head in heads)
    expected = {key for key in model.state_dict() if not key.startswith(prefixes)}
    given = set(keys)
    if given == expected:
        return
    parts = [
        f"{len(names)} {what}: {', '.join(sorted(names)[:5])}"
        for what, names in (("missing", expected - given), ("unexpected", given - expected))
        if names
    ]
    raise ModelFolderError(
        f"The weights do not fit the model ({'; '.join(parts)}). Weights are loaded completely or "
        "not at all; leave out arguments that change the architecture, or use pretrained=False."
    )


def check_shapes(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Check that weights would fit a module exactly; the module may be on the meta device.

    Args:
        module: What they are meant for.
        shapes: Their shapes by name.
        path: The file they are in, for the message.

    Raises:
        ModelFolderError: If a name or a shape differs.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    if expected == shapes:
        return
    wrong = sorted(k for k in expected.keys() | shapes.keys() if expected.get(k) != shapes.get(k))
    shown = "; ".join(
        f"{k} is {shapes.get(k, 'missing')}, expected {expected.get(k, 'nothing')}"
        for k in wrong[:3]
    )
    raise ModelFolderError(f"{path} does not fit its configuration: {shown}.")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that must fit a module exactly.

    Args:
        module: What they are loaded into.
        state: The weights.
        path: The file they come from, for the message.

    Raises:
        ModelFolderError: If a name or a shape differs.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelFolderError(f"{path} does not fit its configuration: {error}") from error
    # torch lets BatchNorms go without num_batches_tracked.
    if missing := sorted(module.state_dict().keys() - state.keys()):
        raise ModelFolderError(f"{path} does not fit its configuration: it lacks {missing[0]}.")
