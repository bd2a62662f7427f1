"""Which SSL method a checkpoint of the paper's code was trained with."""

from collections.abc import Mapping
from typing import Any

from cassle_zoo.common.errors import CheckpointError
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.specs import BACKBONES, PROJECTORS

# (depth, out_features) of the methods' projectors: all that a hypernetwork's output can be.
HYPERNET_SHAPES = ((2, 128), (2, 256), (3, 256), (3, 8192), (2, 2048), (3, 2048))

_OUR_NAME = {"moco": "mocov2"}


def possible_methods(config: ProjectorConfig, *, has_predictor: bool) -> tuple[str, ...]:
    """Return the methods whose projector and predictor have this form; empty if none has.

    SimCLR and MoCo-v2 cannot be told apart.

    Args:
        config: The projector.
        has_predictor: Whether the checkpoint has a predictor. MoCo-v3's was never saved.
    """
    if config.conditioning.startswith("hypernet"):  # which leaves out the last BatchNorm
        shape = (config.depth, config.out_features)
        return {
            (2, 128): ("simclr", "mocov2"),
            (2, 256): ("byol",),
            (3, 256): ("mocov3",),
            (3, 8192): ("barlow_twins",),
        }.get(shape, ("simsiam",))
    if has_predictor:
        return ("simsiam",) if config.last_bn else ("byol",)
    if not config.last_bn:
        return ("simclr", "mocov2")
    if config.last_bn_affine:
        return ()
    # Both have three layers and end in BatchNorm; only MoCo-v3's narrows.
    return ("barlow_twins",) if config.out_features == config.hidden else ("mocov3",)


def choose_method(
    possible: tuple[str, ...], *, option: str | None, args: Mapping[str, Any], name: str
) -> tuple[str, tuple[str, ...]]:
    """Decide on the method by option, args.json, or the model's name.

    Args:
        possible: From :func:`possible_methods`.
        option: `--method`.
        args: Content of args.json.
        name: Name given to the model; counts if it is of the form `ARCH_METHOD`.

    Returns:
        The method, or "A or B" where nothing decides; and what was assumed.

    Raises:
        CheckpointError: If one of these contradicts the tensors.
    """
    framework = args.get("framework")
    stated = _OUR_NAME.get(framework, framework) if isinstance(framework, str) else None
    named = method_in_name(name)
    sources = ((option, "--method"), (stated, "args.json"), (named, f"the name {name}"))
    for value, source in sources:
        if value is not None and possible and value not in possible:
            raise CheckpointError(
                f"{source} says method {value!r}, but the tensors are those of "
                f"{' or '.join(possible)}."
            )
    for value, _ in sources:
        if value is not None:
            return value, ()
    if not possible:
        raise CheckpointError("no method has such a projector; give --method.")
    method = " or ".join(possible)
    if len(possible) > 1:
        return method, (f"{method}, whose weights look the same (--method says which)",)
    return method, ()


def method_in_name(name: str) -> str | None:
    """Return the method of a name `ARCH_METHOD` or `ARCH_cassle_METHOD`; `None` for others."""
    base = name.partition(".")[0]
    for arch in BACKBONES:
        method = base.removeprefix(f"{arch}_").removeprefix("cassle_")
        if base.startswith(f"{arch}_") and method in PROJECTORS:
            return method
    return None
