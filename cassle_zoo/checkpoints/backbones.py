"""The backbone in a checkpoint: its weights, and the timm model that they fit.

Checkpoints are dictionaries of weights, flat or nested, in which the backbone has one prefix, and
heads, EMA teacher and queue have others.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cassle_zoo.checkpoints import efficientnet
from cassle_zoo.checkpoints.run_checkpoint import is_own_run
from cassle_zoo.common.errors import CassleZooError, CheckpointError, ConfigError, unknown_name
from cassle_zoo.zoo.vit import has_sincos_positions
from cassle_zoo.zoo.width import feature_width, without_weights

State = dict[str, Tensor]

OWN_FORMAT = "a run of cassle-zoo"

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

_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.")
# torchvision's ResNet as nn.Sequential(*list(resnet.children())[:-1]), lightly's usual backbone.
_SEQUENTIAL = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}
# Weights that every ResNet, every ResNet as nn.Sequential, every ViT, ... has.
_SIGNATURES = (
    ("conv1.weight", "layer1.0.conv1.weight"),
    ("0.weight", "4.0.conv1.weight"),
    ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    efficientnet.SIGNATURE,
)
_HEADS = ("fc.", "head.")
# Words in prefixes that mark a copy which follows the trained network. Not "teacher": after
# self-distillation it is the one to take, so the user must choose.
_COPIES = {"momentum", "k", "target", "ema"}


@dataclass(frozen=True, kw_only=True)
class IdentifiedBackbone:
    """A backbone under timm's names.

    Attributes:
        timm_arch: Name of the timm model.
        model_args: Arguments for timm to build it.
        model: That model without weights (on torch's `meta` device), classifier left out; shared,
            so not to be changed.
        state: Weights, exactly those of `model`.
        dropped: Weights of heads that were left out.
        notes: Assumptions, in sentences.
    """

    timm_arch: str
    model_args: dict[str, Any] = field(default_factory=dict)
    model: nn.Module
    state: State
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Width of its features."""
        cfg: Any = self.model.pretrained_cfg
        size = self.model_args.get("img_size", cfg["input_size"][-1])
        channels = self.model_args.get("in_chans", 3)
        return feature_width(self.timm_arch, self.model_args, (channels, size, size))


@dataclass(frozen=True, kw_only=True)
class FoundWeights:
    """Where the weights of the trained backbone are in a checkpoint.

    Attributes:
        state: The weights without their prefix.
        prefix: Their prefix.
        others: The other weights, under their whole names.
        format: Which code wrote the checkpoint, in words.
        method: SSL method, if the format tells.
        entries: The contents of the checkpoint that are not weights.
    """

    state: State
    prefix: str
    others: State
    format: str
    method: str | None
    entries: tuple[str, ...]

    def dropped(self, *used: str) -> tuple[str, ...]:
        """Return the contents that are neither the backbone nor under a prefix of `used`."""
        left = [key for key in self.others if not key.startswith(used)]
        groups = Counter(_group(key) for key in left)
        words = [f"{group} ({n} tensor{'s'[: n > 1]})" for group, n in groups.items()]
        return (*words, ", ".join(self.entries)) if self.entries else tuple(words)


def find_weights(
    checkpoint: Any, *, prefix: str | None = None, arch: str | None = None
) -> FoundWeights:
    """Find the weights of the trained backbone.

    The names of nested dictionaries are joined by dots. If the checkpoint has a `state_dict` or
    `model`, the backbone is in it, and its name is left out; like timm, we prefer the moving
    average in `state_dict_ema` or `model_ema` to either.

    Args:
        checkpoint: Content of the file.
        prefix: Prefix of their names, or of a module around them, if it is known.
        arch: Name of their timm model, if it is known.

    Raises:
        CheckpointError: If there are none, or several backbones and no `prefix` to choose one.
    """
    weights, beside, entries = _weights(checkpoint)
    keys = set(weights)
    chosen = _find_prefix(keys, arch) if prefix is None else _given_prefix(keys, prefix)
    name, method = _origin(checkpoint, weights, chosen)
    return FoundWeights(
        state={k.removeprefix(chosen): v for k, v in weights.items() if k.startswith(chosen)},
        prefix=chosen,
        others={k: v for k, v in weights.items() if not k.startswith(chosen)} | beside,
        format=name,
        method=method,
        entries=entries,
    )


def _weights(checkpoint: Any) -> tuple[State, State, tuple[str, ...]]:
    """Return the weights by name, those beside their container, and the names of all else."""
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"the file holds a {type(checkpoint).__name__}, not a dictionary.")
    own = is_own_run(checkpoint)
    containers = ("method",) if own else _CONTAINERS
    inner = next((c for c in containers if isinstance(checkpoint.get(c), dict)), None)
    weights = _flat(checkpoint if inner is None else checkpoint[inner])
    if not weights:
        raise CheckpointError(
            "the file holds no dictionary of tensors, neither itself nor under 'state_dict'; it "
            f"has {', '.join(map(str, list(checkpoint)[:8])) or 'nothing'}. Save the weights "
            "alone: torch.save(model.state_dict(), 'weights.pth')."
        )
    if inner is None:
        beside, read = {}, {key.partition(".")[0] for key in weights} | set(weights)
    else:
        parts = {k: v for k, v in checkpoint.items() if isinstance(v, dict) and k not in containers}
        beside = {} if own else _flat(parts)
        read = {key.partition(".")[0] for key in beside} | {inner}
    return weights, beside, tuple(str(k) for k in checkpoint if k not in read)


def _flat(values: Mapping[Any, Any], prefix: str = "", depth: int = 4) -> State:
    """Return the tensors of nested dictionaries by dotted name.

    Those of an optimiser, whose keys are numbers, are left out.
    """
    flat: State = {}
    for key, value in values.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            flat[prefix + key] = value
        elif isinstance(key, str) and isinstance(value, dict) and depth:
            flat |= _flat(value, f"{prefix}{key}.", depth - 1)
    return flat


def _given_prefix(keys: set[str], prefix: str) -> str:
    prefix = f"{prefix.removesuffix('.')}." if prefix else ""
    under = {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
    if not under:
        raise CheckpointError(
            f"no weight begins with {prefix!r}; there are {', '.join(sorted(keys)[:5])}, ..."
        )
    deeper = _backbone_prefixes(under)
    return prefix if "" in deeper or not deeper else prefix + _trained(deeper, prefix)


def _find_prefix(keys: set[str], arch: str | None = None) -> str:
    known = f"no {arch} with timm's names"
    if arch is None:
        known = "no ResNet with torchvision's names and no ViT with timm's names"
    elif timm.is_model(arch):
        names = dict(without_weights(arch, {}).named_parameters())
        if found := _backbone_prefixes(keys, [tuple(names)]):
            return _trained(found)
    if found := _backbone_prefixes(keys):
        return _trained(found)
    raise CheckpointError(
        f"found {known} among {', '.join(sorted(keys)[:5])}, ...; say which weights with --prefix, "
        "and which timm model they fit with --arch."
    )


def without_copies(prefixes: list[str]) -> list[str]:
    """Leave out the prefixes of copies that follow the trained network."""
    return [p for p in prefixes if not _COPIES & set(re.split(r"[._]", p))]


def _trained(found: list[str], under: str = "") -> str:
    trained = without_copies(found) or found
    if len(trained) == 1:
        return trained[0]
    raise CheckpointError(
        f"there are several backbones, under {', '.join(repr(under + p) for p in trained)}; choose "
        "one with --prefix."
    )


def _backbone_prefixes(
    keys: set[str], signatures: Iterable[tuple[str, ...]] = _SIGNATURES
) -> list[str]:
    ends = {(key, match.end()) for key in keys for match in re.finditer(r"\.", key)}
    prefixes = {"", *(key[:end] for key, end in ends)}
    return sorted(
        prefix
        for prefix in prefixes
        if any(all(prefix + key in keys for key in signature) for signature in signatures)
    )


def _origin(checkpoint: dict[Any, Any], weights: State, prefix: str) -> tuple[str, str | None]:
    """Return which code wrote the checkpoint, and the SSL method if that tells it."""
    if prefix.endswith("encoder_q."):
        v2 = f"{prefix}fc.2.weight" in weights
        return ("MoCo-v2 (Facebook)", "mocov2") if v2 else ("MoCo (Facebook)", "mocov1")
    if prefix.endswith("base_encoder."):
        return "MoCo-v3 (Facebook)", "mocov3"
    if is_own_run(checkpoint):
        return OWN_FORMAT, None
    if prefix.startswith(("student.", "teacher.")) and "dino_loss" in checkpoint:
        return "DINO (Facebook)", "dino"
    if efficientnet.SIGNATURE[0] in {key.removeprefix(prefix) for key in weights}:
        return "EfficientNet-PyTorch", None
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


def identify_backbone(
    state: State,
    *,
    arch: str | None = None,
    model_args: Mapping[str, Any] = MappingProxyType({}),
    num_heads: int | None = None,
    mocov3: bool = False,
) -> IdentifiedBackbone:
    """Find the timm model of a backbone.

    Args:
        state: Weights of a torchvision-style ResNet (by name, or as lightly's nn.Sequential) or
            a timm-style ViT; with `arch`, of any timm model.
        arch: Name of the timm model, if it is known.
        model_args: Arguments of the timm model `arch`, if they are known.
        num_heads: Attention heads of a ViT, which its weights do not show.
        mocov3: Whether a ViT is known to have MoCo-v3's number of heads.

    Raises:
        CheckpointError: If no timm model has exactly these weights.
        UnknownNameError: If timm has no model `arch`.
        ConfigError: If `num_heads` does not divide the width.
    """
    state = _timm_names(state)
    patches = state.get("patch_embed.proj.weight")
    if mocov3 and num_heads is None and patches is not None:
        num_heads = _MOCOV3_HEADS.get(len(patches))
    candidates: tuple[str, ...]
    args: dict[str, Any] = {}
    if arch is not None:
        if not timm.is_model(arch):
            raise unknown_name(
                "timm model", arch, timm.list_models(), listed_by="timm.list_models()"
            )
        candidates = (arch,)
        args = dict(model_args)
        if num_heads is not None:
            args["num_heads"] = num_heads
    elif patches is not None:
        candidates, args = _vit(state, num_heads)
    elif "conv1.weight" in state:
        candidates = _resnets(state)
    elif efficientnet.SIGNATURE[0] in state:
        candidates = efficientnet.candidates(state)
    else:
        raise CheckpointError(
            "the weights are neither a torchvision-style ResNet nor a timm-style ViT "
            f"({', '.join(list(state)[:4])}, ...); name the timm model with --arch."
        )
    problems = []
    for candidate in candidates:
        model, own_args = _built_for(state, candidate, args, num_heads)
        named = state
        if efficientnet.SIGNATURE[0] in state:
            named = efficientnet.timm_names(state, model)
        backbone = _with_counters(_without_heads(named, model), model)
        problem = difference(backbone, model)
        if named is not state and not problem and not candidate.startswith("tf_"):
            problem = "it pads as PyTorch does, but the weights are for TensorFlow's padding"
        if not problem:
            assumed = arch is None or "num_heads" in own_args.keys() - args.keys()
            is_vit = patches is not None and num_heads is None
            return IdentifiedBackbone(
                timm_arch=candidate,
                model_args=own_args,
                model=model,
                state=backbone,
                dropped=tuple(key for key in named if key not in backbone),
                notes=_heads(state["pos_embed"], model) if is_vit and assumed else (),
            )
        problems.append(f"{candidate}: {problem}")
    if arch is None:
        raise CheckpointError(f"the backbone fits no timm model ({'; '.join(problems)}).")
    try:
        known = identify_backbone(state, num_heads=num_heads, mocov3=mocov3).timm_arch
    except CassleZooError:
        known = None
    advice = f"they are those of {known}" if known else "name the timm model that they are of"
    raise CheckpointError(f"the weights do not fit {'; '.join(problems)}; {advice}.")


def _built_for(
    state: State, arch: str, args: Mapping[str, Any], num_heads: int | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a timm model for the channels, image size and heads of weights, without memory."""
    model: Any = without_weights(arch, args)
    found: dict[str, Any] = {}
    stem = f"{model.pretrained_cfg.get('first_conv')}.weight"
    if stem in state and model.get_parameter(stem).shape[1] == 3 != state[stem].shape[1]:
        found["in_chans"] = state[stem].shape[1]
    positions, usual = state.get("pos_embed"), getattr(model, "pos_embed", None)
    if positions is not None and usual is not None and positions.shape[1] != usual.shape[1]:
        rows, columns = model.patch_embed.grid_size
        side = math.isqrt(positions.shape[1] - usual.shape[1] + rows * columns)
        found["img_size"] = side * model.patch_embed.patch_size[0]
    known = num_heads is not None or "num_heads" in args
    if not known and positions is not None and has_sincos_positions(positions):
        heads = _MOCOV3_HEADS.get(positions.shape[2], 0)
        if heads not in (0, model.blocks[0].attn.num_heads):
            found["num_heads"] = heads
    return without_weights(arch, {**args, **found}), {**args, **found}


def _without_heads(state: State, model: Any) -> State:
    classifier = model.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else classifier
    heads = (*_HEADS, *(f"{name}." for name in names))
    own = model.state_dict()
    return {k: v for k, v in state.items() if k in own or not k.startswith(heads)}


def _with_counters(state: State, model: nn.Module) -> State:
    """Add BatchNorms' counters of batches, which old PyTorch lacks and features do not need."""
    counter = "num_batches_tracked"
    norms = [k.removesuffix("running_mean") for k in state if k.endswith(".running_mean")]
    lacking = {norm + counter for norm in norms} & (model.state_dict().keys() - state.keys())
    return state | {key: torch.tensor(0) for key in lacking}


def _timm_names(state: State) -> State:
    """Strip `module.` of DistributedDataParallel, and name the parts of an nn.Sequential."""
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if not all(key in state for key in _SIGNATURES[1]):
        return state
    parts = {key: key.partition(".") for key in state}
    return {
        f"{_SEQUENTIAL.get(index, index)}.{rest}": state[key]
        for key, (index, _, rest) in parts.items()
    }


def _resnets(state: State) -> tuple[str, ...]:
    stem = tuple(state["conv1.weight"].shape)
    if stem[-1] != 7:
        raise CheckpointError(
            f"the first convolution is {stem[-1]}x{stem[-2]}, the stem for small images (CIFAR); "
            "timm's ResNets have 7x7. The tensors do not show its padding, nor whether a max-pool "
            "follows, and a wrong guess would silently give wrong features."
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


def _heads(positions: Tensor, model: Any) -> tuple[str, ...]:
    """Return the assumption about a ViT's attention heads, which its weights do not show."""
    why = "as in timm's ViT of this width"
    if has_sincos_positions(positions):
        why = "as in MoCo-v3, whose fixed positions the file has"
    return (f"{model.blocks[0].attn.num_heads} attention heads, {why} (else give --num-heads)",)


def _vit(state: State, num_heads: int | None) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return timm's name of a ViT, and the arguments for timm."""
    patches, positions = state["patch_embed.proj.weight"], state.get("pos_embed")
    width, patch = len(patches), patches.shape[-1]
    if width not in _VITS or positions is None or patches.ndim != 4:
        raise CheckpointError(
            f"a ViT with patch_embed.proj.weight of shape {tuple(patches.shape)} and "
            f"{'no ' if positions is None else ''}pos_embed is not known; those known have "
            f"pos_embed, flat patches, and a width of {', '.join(map(str, _VITS))}. Name the timm "
            "model with --arch."
        )
    usual: Any = without_weights(_VITS[width], {})
    defaults = {
        "patch_size": usual.patch_embed.patch_size[0],
        "img_size": usual.patch_embed.img_size[0],
        "depth": len(usual.blocks),
        "global_pool": usual.global_pool,
        "num_heads": usual.blocks[0].attn.num_heads,
    }
    if num_heads is not None and (num_heads < 1 or width % num_heads):
        raise ConfigError(f"--num-heads must divide the width {width}, got {num_heads}.")
    found = {
        "patch_size": patch,
        "img_size": math.isqrt(positions.shape[1] - 1) * patch,
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "global_pool": "avg" if "fc_norm.weight" in state else "token",
        "num_heads": num_heads,
    }
    args = {k: v for k, v in found.items() if v not in (None, defaults[k])}
    return (_VITS[width],), args


def difference(state: State, model: nn.Module) -> str:
    """Say how weights differ from a model's, in names, shapes and kind; empty if they do not."""
    own = model.state_dict()
    expected = {key: tuple(value.shape) for key, value in own.items()}
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
    parts += [
        f"{key} is {str(state[key].dtype).removeprefix('torch.')}, as quantised weights are"
        for key, value in own.items()
        if key in state and value.is_floating_point() and not state[key].is_floating_point()
    ][:1]
    return "; ".join(parts)


def layers(model: nn.Module) -> dict[str, str]:
    """Return the type of each layer by its name: some, such as anti-aliasing, have no weights."""
    return {name: type(part).__name__ for name, part in model.named_modules() if name}
