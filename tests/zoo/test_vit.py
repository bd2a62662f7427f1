import copy
import math
from typing import Any

import pytest
import timm
import torch

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.zoo.vit import (
    MOCOV3_VITS,
    freeze_fixed_parts,
    has_sincos_positions,
    mocov3_vit,
    sincos_positions,
)

TINY = {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 64, "num_classes": 0}


def test_positions_equal_their_formula() -> None:
    height, width, dim = 3, 5, 12
    positions = sincos_positions(height, width, dim)
    assert positions.shape == (15, 12)
    for y in range(height):
        for x in range(width):
            expected = [
                f(place * 10_000 ** (-4 * k / dim))
                for place in (y, x)
                for f in (math.sin, math.cos)
                for k in range(dim // 4)
            ]
            torch.testing.assert_close(positions[y * width + x], torch.tensor(expected))


def test_positions_need_a_multiple_of_4() -> None:
    with pytest.raises(ConfigError, match="multiple of 4"):
        sincos_positions(2, 2, 6)


def test_the_vits_differ_from_timms_in_nothing_but_what_mocov3_changes() -> None:
    for arch, args in MOCOV3_VITS.items():
        with torch.device("meta"):
            ours: Any = mocov3_vit(**args, num_classes=0)
            theirs = timm.create_model(f"{arch}_patch16_224", num_classes=0)
        shapes = {key: value.shape for key, value in ours.state_dict().items()}
        assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
        assert ours.blocks[0].attn.num_heads == 12


def test_initialisation() -> None:
    model: Any = mocov3_vit(**TINY)
    assert torch.equal(model.pos_embed[0, 1:], sincos_positions(4, 4, 16))
    assert not model.pos_embed[0, 0].any()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert has_sincos_positions(model.pos_embed.to(dtype))
    bound = math.sqrt(6 / (3 * 16 * 16 + 16))
    assert 0.9 * bound < model.patch_embed.proj.weight.abs().max() <= bound
    assert not model.patch_embed.proj.bias.any()
    assert model.cls_token.abs().max() < 1e-4


@pytest.mark.parametrize("tokens", [17, 16])
def test_learned_positions_are_told_apart(tokens: int) -> None:
    assert not has_sincos_positions(torch.randn(1, tokens, 16))
    # MAE's has the columns first.
    swapped = sincos_positions(4, 4, 16).roll(8, dims=1)
    assert not has_sincos_positions(torch.cat([torch.zeros(1, 16), swapped])[None])


def test_the_fixed_parts_stay_as_they_are() -> None:
    model = mocov3_vit(**TINY)
    freeze_fixed_parts(model)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    same = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert same == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
