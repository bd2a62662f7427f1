"""Finds the backbone in checkpoints of solo-learn, lightly, and Facebook's MoCo.

All of these are a flat dictionary of weights, in which the backbone has a prefix, and heads,
teacher and queue have others.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cassle_zoo.common.errors import CheckpointError
from cassle_zoo.hub.convert.backbones import State, is_backbone, mocov3_heads

# Words in prefixes that mark a copy which follows the trained network. Not "teacher": after
# self-distillation it is the one to take, so the user has to say.
_COPIES = {"momentum", "k", "target", "ema"}


@dataclass(frozen=True, kw_only=True)
class ForeignBackbone:
    """A backbone as it was found in a checkpoint.

    Attributes:
        format: Which code wrote the checkpoint, in words.
        method: SSL method, if the format tells.
        state: The backbone's weights without their prefix.
        num_heads: Attention heads, if the format tells.
        dropped: What else the checkpoint holds.
    """

    format: str
    method: str | None
    state: State
    num_heads: int | None
    dropped: tuple[str, ...]


def find_backbone(checkpoint: Any, *, prefix: str | None = None) -> ForeignBackbone:
    """Find the trained backbone.

    Args:
        checkpoint: Content of the file.
        prefix: What the names of its weights begin with, if it is not to be found out.

    Raises:
        CheckpointError: If there is none, or several and no `prefix` to choose one.
    """
    weights = _weights(checkpoint)
    chosen = _prefix(set(weights), prefix)
    state = {
        key.removeprefix(chosen): value for key, value in weights.items() if key.startswith(chosen)
    }
    name, method = _describe(checkpoint, weights, chosen)
    heads = mocov3_heads(state) if method == "mocov3" else None
    groups = Counter(_group(key) for key in weights if not key.startswith(chosen))
    entries = [str(k) for k in checkpoint if k not in ("state_dict", "model") and k not in weights]
    return ForeignBackbone(
        format=name,
        method=method,
        state=state,
        num_heads=heads,
        dropped=(
            *(f"{group} ({n} tensor{'s'[: n > 1]})" for group, n in groups.items()),
            *([", ".join(entries)] if entries else []),
        ),
    )


def _weights(checkpoint: Any) -> State:
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"the file holds a {type(checkpoint).__name__}, not a dictionary.")
    for entry in ("state_dict", "model"):
        if isinstance(checkpoint.get(entry), dict):
            checkpoint = checkpoint[entry]
            break
    weights = {k: v for k, v in checkpoint.items() if isinstance(v, Tensor) and isinstance(k, str)}
    if not weights:
        raise CheckpointError(
            "the file holds no dictionary of tensors, neither itself nor under 'state_dict'; it "
            f"has {', '.join(map(str, list(checkpoint)[:8])) or 'nothing'}."
        )
    return weights


def _prefix(keys: set[str], prefix: str | None) -> str:
    if prefix is not None:
        chosen = prefix if prefix.endswith(".") or not prefix else f"{prefix}."
        if not any(key.startswith(chosen) for key in keys):
            raise CheckpointError(
                f"no weight begins with {chosen!r}; there are {', '.join(sorted(keys)[:5])}, ..."
            )
        return chosen
    found = sorted({p for key in keys for p in _prefixes_of(key) if is_backbone(keys, p)})
    trained = [p for p in found if not _COPIES & set(re.split(r"[._]", p))] or found
    if len(trained) == 1:
        return trained[0]
    if found:
        raise CheckpointError(
            f"there are several backbones, under {', '.join(map(repr, trained))}; choose one with "
            "--prefix."
        )
    raise CheckpointError(
        "no ResNet with torchvision's names and no ViT with timm's names was found among "
        f"{', '.join(sorted(keys)[:5])}, ...; say which weights with --prefix, and which timm "
        "model they fit with --arch."
    )


def _prefixes_of(key: str) -> list[str]:
    parts = key.split(".")
    return ["".join(f"{part}." for part in parts[:n]) for n in range(len(parts))]


def _describe(checkpoint: dict[Any, Any], weights: State, prefix: str) -> tuple[str, str | None]:
    if prefix.endswith("encoder_q."):
        v2 = f"{prefix}fc.2.weight" in weights
        return ("MoCo-v2 (Facebook)", "mocov2") if v2 else ("MoCo (Facebook)", "mocov1")
    if prefix.endswith("base_encoder."):
        return "MoCo-v3 (Facebook)", "mocov3"
    if "pytorch-lightning_version" not in checkpoint:
        return "a dictionary of weights", None
    if any(key.startswith("classifier.") for key in weights):
        settings = checkpoint.get("hyper_parameters")
        method = settings.get("method") if isinstance(settings, dict) else None
        return "solo-learn", method if isinstance(method, str) else None
    is_lightly = f"{prefix}0.weight" in weights or any("_head." in key for key in weights)
    return ("lightly" if is_lightly else "Lightning"), None


def _group(key: str) -> str:
    parts = key.split(".")
    return ".".join(parts[:2] if parts[0] in ("module", "model") else parts[:1])
