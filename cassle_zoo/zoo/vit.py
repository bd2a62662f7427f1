"""Vision transformers as MoCo-v3 trains them (arXiv 2104.02057, section 4 and appendix).

They differ from timm's in ways that the weights do not show: ViT-S has 12 heads instead of 6, the
positions are fixed 2-D sines and cosines, and the random patch projection is not trained.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.models import build_model_with_cfg
from timm.models.naflexvit import NaFlexVit
from timm.models.naflexvit import checkpoint_filter_fn as naflex_filter_fn
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from cassle_zoo.common.errors import ConfigError

MOCOV3_VITS: Mapping[str, Mapping[str, int]] = {
    "vit_small": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 12},
    "vit_base": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
}
"""Arguments of timm's VisionTransformer by our short name of the architecture."""


def sincos_positions(height: int, width: int, dim: int) -> Tensor:
    """Return the fixed position embedding of a grid of patches.

    With w_k = 10000^(-4k/dim), k < dim/4, the patch in row y and column x gets
    (sin(y w), cos(y w), sin(x w), cos(x w)).

    Args:
        height: Rows of patches.
        width: Columns of patches.
        dim: Length of an embedding, a multiple of 4.

    Returns:
        (height * width, dim) float32, row by row.

    Raises:
        ConfigError: If `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ConfigError(f"dim must be a multiple of 4 for 2-D positions, got {dim}.")
    frequencies = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    rows = torch.arange(height, dtype=torch.float32).repeat_interleave(width)
    columns = torch.arange(width, dtype=torch.float32).repeat(height)
    angles = [torch.outer(places, frequencies) for places in (rows, columns)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


class MoCoV3ViT(VisionTransformer):
    """timm's VisionTransformer with MoCo-v3's initialisation, also after `init_weights`."""

    def init_weights(self, mode: str = "", *args: Any, **kwargs: Any) -> None:
        """Draw new weights and set the fixed positions, as when the network is built.

        timm's way to build large models needs it: meta device, then `to_empty`, `init_weights`.

        Args:
            mode: timm's name of an initialisation, for all but positions and patches.
            *args: As for timm's method.
            **kwargs: As for timm's method.
        """
        super().init_weights(mode, *args, **kwargs)
        patches: Any = self.patch_embed
        if isinstance(patches.proj, nn.Conv2d):
            fan_in = math.prod(patches.proj.weight.shape[1:])
            bound = math.sqrt(6 / (fan_in + self.embed_dim))
            nn.init.uniform_(patches.proj.weight, -bound, bound)
            if patches.proj.bias is not None:
                nn.init.zeros_(patches.proj.bias)
        if self.pos_embed is not None:
            height, width = patches.grid_size
            positions = sincos_positions(height, width, self.embed_dim)
            with torch.no_grad():
                self.pos_embed.zero_()  # the class token has no position
                self.pos_embed[0, -len(positions) :] = positions.to(self.pos_embed)


class MoCoV3NaFlexViT(NaFlexVit):
    """The same network as timm's NaFlexVit, which takes images of any size and aspect ratio."""

    def init_weights(self, mode: str = "", *args: Any, **kwargs: Any) -> None:
        """As :meth:`MoCoV3ViT.init_weights`; the patches are a Linear, drawn in the same range."""
        super().init_weights(mode, *args, **kwargs)
        places: Any = getattr(self.embeds, "pos_embed", None)
        if places is not None:
            _, height, width, _ = places.shape
            positions = sincos_positions(height, width, self.embed_dim)
            with torch.no_grad():
                places.copy_(positions.view_as(places))


def mocov3_vit(**kwargs: Any) -> VisionTransformer:
    """Build timm's VisionTransformer with MoCo-v3's initialisation.

    Args:
        **kwargs: Arguments of timm's VisionTransformer.
    """
    return MoCoV3ViT(**{"weight_init": "moco", **kwargs})


def mocov3_naflex_vit(**kwargs: Any) -> NaFlexVit:
    """Build timm's NaFlexVit with MoCo-v3's initialisation.

    Args:
        **kwargs: Arguments of timm's VisionTransformer, or fields of its NaFlexVitCfg.
    """
    for flexible_already in ("no_embed_class", "dynamic_img_size"):
        kwargs.pop(flexible_already, None)
    pool = kwargs.get("global_pool", "token")
    return MoCoV3NaFlexViT(
        **{
            "weight_init": "moco",
            "class_token": True,
            "global_pool": pool,
            "fc_norm": pool in ("avg", "avgmax", "max"),
            "pos_embed_grid_size": None,  # that of img_size
            **kwargs,
        }
    )


def build_registered_vit(
    name: str,
    arch: str,
    pretrained: bool,
    *,
    pretrained_filter_fn: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None = None,
    use_naflex: bool | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a ViT of the registry with timm's machinery.

    timm's own entry points set `pretrained_filter_fn` themselves, hence this one.

    Args:
        name: The registered name.
        arch: A key of :data:`MOCOV3_VITS`.
        pretrained: Whether to load the weights that `kwargs["pretrained_cfg"]` names.
        pretrained_filter_fn: Applied to the weights before timm fits them to another image size.
        use_naflex: Whether to build a NaFlexVit, which has the same weights; by default what the
            environment variable TIMM_USE_NAFLEXVIT says, as in timm.
        **kwargs: Arguments of timm's ViT builders.
    """
    if use_naflex is None:
        use_naflex = os.environ.get("TIMM_USE_NAFLEXVIT", "false").lower() == "true"

    def fitted(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
        if use_naflex:
            # In float32, since the class token's position embedding is added to the token.
            state = naflex_filter_fn({key: value.float() for key, value in state.items()}, model)
        if pretrained_filter_fn is not None:
            state = pretrained_filter_fn(state, model)
        resized: dict[str, Tensor] = state if use_naflex else checkpoint_filter_fn(state, model)
        return resized

    features = {"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"}
    model: nn.Module = build_model_with_cfg(
        mocov3_naflex_vit if use_naflex else mocov3_vit,
        name,
        pretrained,
        feature_cfg=features,
        pretrained_filter_fn=fitted,
        **{**MOCOV3_VITS[arch], **kwargs},
    )
    return model


def freeze_fixed_parts(model: nn.Module) -> None:
    """Exclude the positions and the patch projection from training, as MoCo-v3 does.

    Frozen random patches keep the training of ViTs stable (arXiv 2104.02057, section 4).

    Args:
        model: From :func:`mocov3_vit`.
    """
    for name, parameter in model.named_parameters():
        if name == "pos_embed" or name.startswith("patch_embed."):
            parameter.requires_grad_(False)


def has_sincos_positions(pos_embed: Tensor) -> bool:
    """Return whether a (1, 1 + side * side, dim) position embedding is MoCo-v3's fixed one."""
    side = math.isqrt(pos_embed.shape[1] - 1)
    if side * side + 1 != pos_embed.shape[1] or pos_embed.shape[2] % 4:
        return False
    expected = sincos_positions(side, side, pos_embed.shape[2])
    # As exact as bfloat16 is below 1.
    return torch.allclose(pos_embed[0, 1:].float(), expected, rtol=0, atol=3e-3)
