"""Finds the timm model that a backbone's weights belong to, from their names and shapes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cassle_zoo.common.errors import CheckpointError, ConfigError, unknown_name
from cassle_zoo.zoo.vit import has_sincos_positions

State = dict[str, Tensor]

# (blocks per stage, whether they are bottlenecks) -> timm models; shapes tell these apart.
_RESNETS: Mapping[tuple[tuple[int, ...], bool], tuple[str, ...]] = {
    ((2, 2, 2, 2), False): ("resnet18",),
    ((3, 4, 6, 3), False): ("resnet34",),
    ((3, 4, 6, 3), True): ("resnet50", "wide_resnet50_2", "resnext50_32x4d"),
    ((3, 4, 23, 3), True): ("resnet101", "wide_resnet101_2", "resnext101_32x8d"),
    ((3, 8, 36, 3), True): ("resnet152",),
}
_VITS: Mapping[int, str] = {
    192: "vit_tiny_patch16_224",
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
    1280: "vit_huge_patch14_224",
}
# Attention heads of MoCo-v3's ViTs by width; timm's narrow ones have fewer.
_MOCOV3_HEADS: Mapping[int, int] = {192: 12, 384: 12, 768: 12, 1024: 16, 1280: 16}

# torchvision's ResNet as nn.Sequential(*list(resnet.children())[:-1]), lightly's usual backbone.
_SEQUENTIAL = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}
_HEADS = ("fc.", "head.")


@dataclass(frozen=True, kw_only=True)
class FoundBackbone:
    """A backbone under timm's names.

    Attributes:
        timm_arch: Name of the timm model.
        model_args: Arguments that timm must be given to build it.
        model: That model without weights (on torch's `meta` device), classifier left out.
        state: Weights, exactly those of `model`.
        dropped: Weights of heads that were left out.
        notes: What was assumed, in sentences.
    """

    timm_arch: str
    model_args: dict[str, Any] = field(default_factory=dict)
    model: nn.Module
    state: State
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def mocov3_heads(state: State) -> int | None:
    """Return the heads that MoCo-v3 gives a ViT of this width; `None` if it is no such ViT."""
    patches = state.get("patch_embed.proj.weight")
    return None if patches is None else _MOCOV3_HEADS.get(len(patches))


def is_backbone(keys: set[str], prefix: str) -> bool:
    """Whether a ResNet or ViT lies under a prefix."""
    signatures = (
        ("conv1.weight", "layer1.0.conv1.weight"),
        ("0.weight", "4.0.conv1.weight"),
        ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    )
    return any(all(prefix + key in keys for key in signature) for signature in signatures)


def identify_backbone(
    state: State, *, arch: str | None = None, num_heads: int | None = None
) -> FoundBackbone:
    """Find the timm model of a backbone.

    Args:
        state: Weights of a torchvision-style ResNet (by name, or as lightly's nn.Sequential) or
            a timm-style ViT; with `arch`, of any timm model.
        arch: Name of the timm model, if it is to be taken as given.
        num_heads: Attention heads of a ViT, which its weights do not show.

    Raises:
        CheckpointError: If no timm model has exactly these weights.
        UnknownNameError: If timm has no model `arch`.
        ConfigError: If `num_heads` does not divide the width.
    """
    state = _unwrapped(state)
    kept = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    dropped = tuple(key for key in state if key not in kept)
    candidates: tuple[str, ...]
    args: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if arch is not None:
        if not timm.is_model(arch):
            raise unknown_name("timm model", arch, timm.list_models())
        candidates = (arch,)
        if num_heads is not None:
            args["num_heads"] = num_heads
    elif "patch_embed.proj.weight" in kept:
        candidates, args, notes = _vit(kept, num_heads)
    elif "conv1.weight" in kept:
        candidates = _resnets(kept)
    else:
        raise CheckpointError(
            "the weights are neither a torchvision-style ResNet nor a timm-style ViT "
            f"({', '.join(list(kept)[:4])}, ...); name the timm model with --arch."
        )
    problems = []
    for candidate in candidates:
        with torch.device("meta"):
            model = timm.create_model(candidate, num_classes=0, **args)
        problem = _difference(kept, model)
        if not problem:
            return FoundBackbone(
                timm_arch=candidate,
                model_args=args,
                model=model,
                state=kept,
                dropped=dropped,
                notes=notes,
            )
        problems.append(f"{candidate}: {problem}")
    raise CheckpointError(f"the backbone fits no timm model ({'; '.join(problems)}).")


def _unwrapped(state: State) -> State:
    """Strip `module.` of DistributedDataParallel, and name the parts of an nn.Sequential."""
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if not is_backbone(set(state), "") or "0.weight" not in state:
        return state
    renamed = {}
    for key, value in state.items():
        index, _, rest = key.partition(".")
        renamed[f"{_SEQUENTIAL.get(index, index)}.{rest}"] = value
    return renamed


def _resnets(state: State) -> tuple[str, ...]:
    stem = tuple(state["conv1.weight"].shape)
    if stem[-1] != 7:
        raise CheckpointError(
            f"the first convolution is {stem[-1]}x{stem[-2]}, the stem for small images (CIFAR); "
            "timm's ResNets have 7x7. The tensors do not show its padding, nor whether a max-pool "
            "follows, and a wrong guess would give wrong features in silence."
        )
    blocks = {tuple(map(int, m.groups())) for key in state if (m := _BLOCK.match(key))}
    stages = tuple(sum(stage == n for stage, _ in blocks) for n in range(1, 5))
    found = _RESNETS.get((stages, "layer1.0.conv3.weight" in state))
    if found is None:
        raise CheckpointError(
            f"a ResNet with {stages} blocks per stage is not known; name the timm model with "
            "--arch."
        )
    return found


_BLOCK = re.compile(r"layer(\d)\.(\d+)\.")


def _vit(
    state: State, num_heads: int | None
) -> tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]:
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    arch = _VITS.get(width)
    if arch is None or "pos_embed" not in state:
        raise CheckpointError(
            f"a ViT of width {width} is not known; known widths: {', '.join(map(str, _VITS))}. "
            "Name the timm model with --arch."
        )
    usual = {"patch": int(arch.split("patch")[1].split("_")[0]), "size": 224}
    with torch.device("meta"):
        default: Any = timm.create_model(arch, num_classes=0)
    args: dict[str, Any] = {}
    if patch != usual["patch"]:
        args["patch_size"] = patch
    size = math.isqrt(state["pos_embed"].shape[1] - 1) * patch
    if size != usual["size"]:
        args["img_size"] = size
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    if depth != len(default.blocks):
        args["depth"] = depth
    if "fc_norm.weight" in state:
        args["global_pool"] = "avg"
    timm_heads = default.blocks[0].attn.num_heads
    notes: tuple[str, ...] = ()
    heads = num_heads
    if heads is None:
        heads, why = timm_heads, "as in timm's ViT of this width"
        if has_sincos_positions(state["pos_embed"]):
            heads, why = _MOCOV3_HEADS[width], "as in MoCo-v3, whose fixed positions the file has"
        notes = (f"{heads} attention heads, {why} (else give --num-heads)",)
    if heads < 1 or width % heads:
        raise ConfigError(f"--num-heads must divide the width {width}, got {heads}.")
    if heads != timm_heads:
        args["num_heads"] = heads
    return (arch,), args, notes


def _difference(state: State, model: nn.Module) -> str:
    """Say how weights differ from a model's, in names and shapes; empty if they do not."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    parts = [
        f"{len(keys)} {what}: {', '.join(sorted(keys)[:3])}"
        for what, keys in (
            ("missing", expected.keys() - state.keys()),
            ("unexpected", state.keys() - expected.keys()),
        )
        if keys
    ]
    parts += [
        f"{key} is {tuple(state[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ][:3]
    return "; ".join(parts)
