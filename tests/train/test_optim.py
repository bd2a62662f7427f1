import dataclasses
from typing import Any

import pytest
import timm
import torch

from cassle_zoo.train.config import OptimConfig
from cassle_zoo.train.optim import build_optimizer, learning_rate
from cassle_zoo.train.recipes import get_recipe
from cassle_zoo.train.trainer import build_method


def test_learning_rate() -> None:
    config = OptimConfig(epochs=10, batch_size=512, base_lr=0.1, warmup_epochs=2)
    rates = [learning_rate(step, 5, config) for step in range(50)]
    assert max(rates) == rates[10] == pytest.approx(0.2)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[0] < 0.02
    assert rates[:10] == pytest.approx([0.2 * step / 11 for step in range(1, 11)])
    assert 0 < rates[-1] < 0.001
    assert rates[30] == pytest.approx(0.1)  # half-way down


def test_whole_warmup_and_no_warmup() -> None:
    assert learning_rate(0, 5, OptimConfig(epochs=2)) == pytest.approx(0.03)
    config = OptimConfig(epochs=2, warmup_epochs=2)
    assert 0 < learning_rate(9, 5, config) < 0.03


def test_optimizer_follows_the_paper() -> None:
    config = get_recipe("resnet18_cassle_simclr.emoji64")
    method = build_method(dataclasses.replace(config, name="auto", arch="test_resnet"))
    optimizer = build_optimizer(method.param_groups(), config.optim)
    assert isinstance(optimizer.param_groups, list)
    assert {g["weight_decay"] for g in optimizer.param_groups} == {5e-4}
    assert not optimizer.param_groups[0].get("nesterov")
    assert optimizer.param_groups[0]["momentum"] == 0.9
    groups = method.param_groups()
    split = build_optimizer(groups, dataclasses.replace(config.optim, decay_all=False))
    assert {g["weight_decay"] for g in split.param_groups} == {0.0, 5e-4}


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_steps_are_adapted_without_weight_decay_too(name: str, decay_all: bool) -> None:
    """As with almost none; timm takes a weight decay of 0 for "do not adapt"."""
    moved = []
    for weight_decay in (1e-12, 0.0):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 4)
        before = [p.detach().clone() for p in layer.parameters()]
        config = OptimConfig(optimizer=name, weight_decay=weight_decay, decay_all=decay_all)
        optimizer = build_optimizer([{"params": [*layer.parameters()]}], config)
        layer(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        moved.append([p.detach() - was for p, was in zip(layer.parameters(), before, strict=True)])
    torch.testing.assert_close(moved[1], moved[0])


def test_weight_decay_spares_what_timm_names_by_a_pattern() -> None:
    backbone: Any = timm.create_model("test_vit", num_classes=0)
    backbone.no_weight_decay = lambda: {"patch_embed.*"}  # as of XCiT, from timm 1.0.31 on
    groups = [{"params": [*backbone.parameters()]}]
    optimizer = build_optimizer(groups, OptimConfig(decay_all=False), backbone)
    spared = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
    assert id(backbone.get_parameter("patch_embed.proj.weight")) in spared
    assert id(backbone.get_parameter("blocks.0.attn.qkv.weight")) not in spared


def test_weight_decay_of_a_vit() -> None:
    """MoCo-v3's code decays everything that is trained; `decay_all` False asks timm."""
    config = get_recipe("vit_small_cassle_mocov3.in100")
    assert config.optim.decay_all
    backbone = timm.create_model("test_vit", num_classes=0)
    named = dict(backbone.named_parameters())
    groups = [{"params": [*named.values()]}]
    everything = build_optimizer(groups, config.optim, backbone)
    assert [g["weight_decay"] for g in everything.param_groups] == [0.1]
    optim = dataclasses.replace(config.optim, decay_all=False)
    spared, decayed = build_optimizer(groups, optim, backbone).param_groups
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    ids = {id(p) for p in spared["params"]}
    names = {name for name, p in named.items() if id(p) in ids}
    assert {"pos_embed", "cls_token", "norm.weight", "blocks.0.attn.qkv.bias"} <= names
    assert not any(named[n].ndim > 1 for n in names - {"pos_embed", "cls_token"})
    assert "blocks.0.attn.qkv.weight" not in names
