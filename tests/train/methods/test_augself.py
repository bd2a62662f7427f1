import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from changes import small_method
from torch import Tensor

from cassle_zoo.augmentation.descriptors import ALL_DESCRIPTORS, DescriptorLayout
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.data.views import make_views
from cassle_zoo.train.methods import METHODS
from cassle_zoo.train.methods.augself import AugSelf, AugSelfConfig, differences
from cassle_zoo.train.trainer import Trainer, build_method

GOLDEN = Path(__file__).parents[2] / "golden"


def test_losses_equal_official() -> None:
    with np.load(GOLDEN / "b_ssobjective.npz") as arrays:
        meta = json.loads(str(arrays["meta_json"]))
        golden = {k: torch.from_numpy(arrays[k]) for k in arrays.files if k != "meta_json"}
    heads = AugSelf(AugSelfConfig(**meta["weights"]), 32, meta["n_hidden"]).double()
    prefix = "ss_predictor/"
    heads.heads.load_state_dict(
        {k.removeprefix(prefix).replace("/", "."): v for k, v in golden.items() if prefix in k}
    )
    targets = {
        name: torch.cat([golden[f"diff1/{name}"], golden[f"diff2/{name}"]])
        for name in meta["weights"]
    }
    total, parts = heads.loss((golden["y1"], golden["y2"]), targets)
    assert abs(total.item() - golden["loss/total"].item()) < 1e-9
    for name in meta["weights"]:
        assert abs(parts[f"augself_{name}"].item() - golden[f"loss/{name}"].item()) < 1e-9


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "c_differences.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def omega(golden: dict[str, Tensor], view: str) -> Tensor:
    return torch.cat([golden[f"{view}/desc/{name}"] for name in ALL_DESCRIPTORS.names], dim=1)


@pytest.mark.parametrize("name", ["blur", "color", "color_diff", "crop", "flip"])
def test_differences_equal_official(golden: dict[str, Tensor], name: str) -> None:
    first, second = omega(golden, "v1"), omega(golden, "v2")
    for key, ours in (
        (f"diff12/{name}", differences(first, second, first_flip_for_both=True)),
        (f"diff21/{name}", differences(second, first, first_flip_for_both=True)),
    ):
        torch.testing.assert_close(ours[name], golden[key], rtol=0, atol=1e-6)


def test_each_crop_is_mirrored_by_its_own_flip(golden: dict[str, Tensor]) -> None:
    ours = differences(omega(golden, "v1"), omega(golden, "v2"))["crop"]
    torch.testing.assert_close(ours, golden["diff12_crop_if_own_flips"], rtol=0, atol=1e-6)
    assert not torch.allclose(ours, golden["diff12/crop"])


def augself(config: TrainConfig, **changes: object) -> TrainConfig:
    return dataclasses.replace(config, augself=AugSelfConfig(**changes))  # type: ignore[arg-type]


def test_views_carry_every_descriptor(config: TrainConfig) -> None:
    batch = next(iter(batches(config, open_dataset(config.data), 0, 1)))
    layout = DescriptorLayout(("flip", "crop"))
    views = make_views(batch, config.augment, layout, torch.device("cpu"))
    assert views.all_descriptors is not None
    for few, everything in zip(views.descriptors, views.all_descriptors, strict=True):
        assert everything.shape == (4, 14)
        assert torch.equal(few, everything[:, [8, 9, 10, 11, 12]])
    nothing = make_views(batch, config.augment, DescriptorLayout(()), torch.device("cpu"))
    assert nothing.descriptors[0].shape == (4, 0)


def test_it_adds_to_the_loss_and_reaches_the_backbone(config: TrainConfig) -> None:
    batch = next(iter(batches(config, open_dataset(config.data), 0, 1)))
    with_it = Trainer(augself(config, crop=0.5, color=0.25), 5)
    without = Trainer(config, 5)
    assert without.method.augself is None
    assert not any("augself" in key for key in without.method.state_dict())
    layout = with_it.method.projector.layout
    views = make_views(batch, config.augment, layout, torch.device("cpu"))
    (loss, logs), (plain, _) = with_it.method(views), without.method(views)
    expected = plain + 0.5 * logs["augself_crop"] + 0.25 * logs["augself_color"]
    torch.testing.assert_close(loss, expected)
    logs["augself_color"].backward()
    grads = [p.grad for p in with_it.method.backbone.parameters()]
    assert any(g is not None and g.abs().max() > 0 for g in grads)
    assert all(p.grad is None for p in with_it.method.projector.parameters())
    trained = {p for g in with_it.optimizer.param_groups for p in g["params"]}
    assert with_it.method.augself is not None
    assert set(with_it.method.augself.parameters()) <= trained


@pytest.mark.parametrize("name", METHODS)
def test_any_method(config: TrainConfig, name: str) -> None:
    config = dataclasses.replace(
        config,
        method=small_method(name),
        augself=AugSelfConfig(crop=1, color=1, color_diff=1, flip=1, blur=1),
    )
    trainer = Trainer(config, 5)
    values = trainer.train_step(next(iter(batches(config, open_dataset(config.data), 0, 1))), 10)
    assert sum(key.startswith("augself_") for key in values) == 5


def test_targets_within_reach_are_learned() -> None:
    torch.manual_seed(0)
    heads = AugSelf(AugSelfConfig(crop=1, flip=1), 14, 32)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.01)
    losses = []
    for _ in range(150):
        first, second = torch.rand(64, 14), torch.rand(64, 14)
        first[:, 12], second[:, 12] = first[:, 12].round(), second[:, 12].round()
        loss, _ = heads((first, second), (first, second))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("changes", [{"crop": -0.1}, {"blur": float("nan")}])
def test_bad_weights(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"augself\."):
        AugSelfConfig(**changes)


def test_the_official_switch_needs_the_crop() -> None:
    with pytest.raises(ConfigError, match=r"augself\.crop is 0"):
        AugSelfConfig(color=0.5, first_flip_for_both=True)


def test_views_without_all_descriptors(config: TrainConfig) -> None:
    method = build_method(augself(config, flip=1.0))
    assert method.augself is not None
    with pytest.raises(ConfigError, match="all_descriptors"):
        method.augself((torch.randn(2, 4), torch.randn(2, 4)), None)
