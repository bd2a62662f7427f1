"""Whole optimiser steps: against the paper's code, and against plain rewritings of the papers."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cassle_zoo.train.config import OptimConfig
from cassle_zoo.train.methods import METHODS, ConditioningConfig, Method, MethodConfig, Views
from cassle_zoo.train.methods.barlow_twins import BarlowTwinsConfig
from cassle_zoo.train.methods.byol import BYOLConfig
from cassle_zoo.train.methods.mocov2 import MoCoV2, MoCoV2Config
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.methods.simclr import SimCLRConfig
from cassle_zoo.train.methods.simsiam import SimSiam, SimSiamConfig
from cassle_zoo.train.methods.teacher import EMATeacher
from cassle_zoo.train.optim import build_optimizer, set_learning_rate

GOLDEN = Path(__file__).parents[2] / "golden"
CONDITIONING = ConditioningConfig(descriptors=("crop", "flip"), depth=3, width=16)
OFFICIAL = {
    "simclr": SimCLRConfig(),
    "moco": MoCoV2Config(queue_size=256, enqueue="queries"),
    "byol": BYOLConfig(out_features=64, predictor_features=80),
}
RENAMED = {
    "target_backbone/": "teacher.backbone.",
    "target_projector/": "teacher.projector.",
    "projector/": "projector.",
    "aug_processor": "encoder",
    "projector.projector": "projector.layers",
    "/": ".",
}


class LinearBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(24, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def build(config: MethodConfig) -> Any:
    return config.build(LinearBackbone(), config.projector(32, CONDITIONING)).double()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)


def do_step(
    method: Method, optimizer: torch.optim.Optimizer, views: Views, progress: float
) -> float:
    loss, _ = method(views)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    method.after_step(progress)
    return loss.item()


def official_state(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    state = {}
    for key, value in golden.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)
            state[name] = value
    return state


@pytest.mark.parametrize("name", OFFICIAL)
def test_two_steps_equal_official(name: str) -> None:
    with np.load(GOLDEN / f"b_step_{name}.npz") as arrays:
        golden = {k: torch.from_numpy(arrays[k]) for k in arrays.files if k != "meta_json"}
        meta = json.loads(str(arrays["meta_json"]))
    method = build(OFFICIAL[name])
    extra = {"position": torch.tensor(0)} if name == "moco" else {}
    method.load_state_dict(official_state(golden, "before/") | extra)
    optimizer = sgd([p for p in method.parameters() if p.requires_grad])
    for step in (1, 2):
        get = golden.__getitem__
        views = Views(
            images=(get(f"step{step}/x1"), get(f"step{step}/x2")),
            descriptors=(get(f"step{step}/desc1"), get(f"step{step}/desc2")),
        )
        loss = do_step(method, optimizer, views, (meta["epoch"] - 1) / meta["max_epochs"])
        assert abs(loss - golden[f"step{step}/loss"].item()) < 1e-9
        after = method.state_dict()
        expected = official_state(golden, f"after{step}/")
        assert expected.keys() | {"queue", "position"} == after.keys() | {"queue", "position"}
        for key, value in expected.items():
            torch.testing.assert_close(after[key], value, rtol=0, atol=1e-7)
        if name == "moco":
            rows = golden[f"queue_after{step}_rows_0_to_32"]
            torch.testing.assert_close(after["queue"][:32], rows, rtol=0, atol=1e-7)
            assert torch.equal(after["queue"][32:], golden["before/queue"][32:])


def random_views(seed: int) -> Views:
    torch.manual_seed(seed)
    x1, x2, omega1, omega2 = (torch.randn(16, w, dtype=torch.float64) for w in (24, 24, 5, 5))
    return Views(images=(x1, x2), descriptors=(omega1, omega2))


class Plain:
    """The three methods without golden steps, written once more: straight from the papers."""

    def __init__(self, method: Any) -> None:
        self.f, self.g = copy.deepcopy(method.backbone), copy.deepcopy(method.projector)
        self.h = copy.deepcopy(getattr(method, "predictor", nn.Identity()))
        self.tf, self.tg = copy.deepcopy(self.f), copy.deepcopy(self.g)
        trained = [p for m in (self.f, self.g, self.h) for p in m.parameters()]
        self.optimizer = sgd(trained)

    def step(self, name: str, views: Views) -> float:
        (x1, x2), (w1, w2) = views.images, views.descriptors
        z1, z2 = self.g(self.f(x1), w1), self.g(self.f(x2), w2)
        if name == "barlow_twins":
            c = z1.T @ z2 / 16
            on, off = c.diagonal().sub(1), c - torch.diag(c.diagonal())
            loss = on.pow(2).sum() + 0.0051 * off.pow(2).sum()
        elif name == "simsiam":
            p1, p2 = self.h(z1), self.h(z2)
            d = [-(F.normalize(p) * F.normalize(z.detach())).sum(1).mean()
                 for p, z in ((p1, z2), (p2, z1))]  # fmt: skip
            loss = d[0] / 2 + d[1] / 2
        else:
            q1, q2 = F.normalize(self.h(z1)), F.normalize(self.h(z2))
            with torch.no_grad():
                for m, t in ((self.f, self.tf), (self.g, self.tg)):
                    for p, q in zip(m.parameters(), t.parameters(), strict=True):
                        q.mul_(0.999).add_(p, alpha=0.001)
                k1, k2 = (
                    F.normalize(self.tg(self.tf(x1), w1)),
                    F.normalize(self.tg(self.tf(x2), w2)),
                )
            loss = sum(
                -(q @ k.T / 0.2).log_softmax(1).diagonal().mean() * 0.4
                for q, k in ((q1, k2), (q2, k1))
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


@pytest.mark.parametrize(
    "config",
    [
        BarlowTwinsConfig(hidden_features=48, out_features=64),
        SimSiamConfig(hidden_features=48, out_features=64, predictor_features=20),
        MoCoV3Config(hidden_features=48, out_features=64, predictor_features=20),
    ],
    ids=lambda config: config.name,
)
def test_steps_equal_a_plain_rewriting(config: MethodConfig) -> None:
    method = build(config)
    plain = Plain(method)
    optimizer = sgd([p for p in method.parameters() if p.requires_grad])
    for step in range(3):
        views = random_views(step)
        ours = do_step(method, optimizer, views, 0.5)
        assert ours == pytest.approx(plain.step(config.name, views), abs=1e-10)
    modules = [(method.backbone, plain.f), (method.projector, plain.g)]
    if config.name != "barlow_twins":
        modules.append((method.predictor, plain.h))
    if config.name == "mocov3":
        modules += [(method.teacher.backbone, plain.tf), (method.teacher.projector, plain.tg)]
    for mine, other in modules:
        for key, value in other.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[key], value, rtol=0, atol=1e-10)


def test_queue_takes_keys_and_wraps() -> None:
    method = build(MoCoV2Config(queue_size=40))  # not a multiple of the batch, 16
    assert isinstance(method, MoCoV2)
    views = random_views(0)
    held = method.queue.clone()
    torch.testing.assert_close(held.norm(dim=1), torch.ones(40, dtype=torch.float64))
    with torch.no_grad():
        keys = F.normalize(copy.deepcopy(method.teacher)(views)[1])
    optimizer = sgd([p for p in method.parameters() if p.requires_grad])
    do_step(method, optimizer, views, 0.1)
    torch.testing.assert_close(method.queue, torch.cat([keys, held[16:]]))
    for step in range(2):
        do_step(method, optimizer, random_views(step), 0.1)
    assert method.position == 48 % 40
    assert not method.queue.requires_grad
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(method.queue[8:16], keys[8:16])
    assert not torch.allclose(method.queue[:8], keys[:8])


def test_queue_smaller_than_a_batch() -> None:
    method = build(MoCoV2Config(queue_size=5))
    optimizer = sgd([p for p in method.parameters() if p.requires_grad])
    with torch.no_grad():
        keys = F.normalize(copy.deepcopy(method.teacher)(random_views(0))[1])
    do_step(method, optimizer, random_views(0), 0.1)
    assert method.position == 0
    torch.testing.assert_close(method.queue, keys[-5:])


def test_byol_momentum_rises_to_one() -> None:
    method = build(BYOLConfig(momentum=0.9, out_features=8, predictor_features=8))
    with torch.no_grad():
        method.backbone.fc.bias.add_(1)
    before = method.teacher.backbone.fc.bias.clone()
    for progress, rate in ((1e-9, 0.1), (0.5, 0.05), (1.0, 0.0)):
        with torch.no_grad():
            method.teacher.backbone.fc.bias.copy_(before)
        method.after_step(progress)
        moved = (method.teacher.backbone.fc.bias - before).mean().item()
        assert moved == pytest.approx(rate, abs=1e-9)


@pytest.mark.parametrize("name", ["mocov2", "mocov3", "byol"])
def test_teachers_get_no_gradient(name: str) -> None:
    small = {"queue_size": 32} if name == "mocov2" else {"predictor_features": 8}
    method = build(METHODS[name](out_features=8, **small))
    assert isinstance(method.teacher, EMATeacher)
    method(random_views(0))[0].backward()
    trained = {p for group in method.param_groups() for p in group["params"]}
    assert not trained & set(method.teacher.parameters())
    assert all(p.grad is not None for p in trained)
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(m.training for m in method.teacher.modules())


def test_evaluating_mocov3_leaves_its_teacher_alone() -> None:
    method = build(MoCoV3Config(hidden_features=8, out_features=8, predictor_features=8))
    with torch.no_grad():
        method.backbone.fc.bias.add_(1)
    before = copy.deepcopy(method.teacher.state_dict())
    method.eval()(random_views(0))
    assert all(torch.equal(v, before[k]) for k, v in method.teacher.state_dict().items())


def test_simsiam_logs_the_spread_of_its_projections() -> None:
    method = build(SimSiamConfig(hidden_features=8, out_features=8, predictor_features=8))
    views = random_views(0)
    _, logs = method(views)
    with torch.no_grad():
        z = method.projector(method.backbone(views.images[0]), views.descriptors[0]).numpy()
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    assert logs["projection_std"].item() == pytest.approx(
        unit.std(axis=0, ddof=1).mean() * math.sqrt(8)
    )


def test_simsiam_predictor_keeps_its_learning_rate() -> None:
    method = build(SimSiamConfig(hidden_features=8, out_features=8, predictor_features=8))
    assert isinstance(method, SimSiam)
    config = OptimConfig(epochs=10, base_lr=0.5, warmup_epochs=1)
    optimizer = build_optimizer(method.param_groups(), config)
    predictor = set(method.predictor.parameters())
    for step in (0, 25, 49):
        lr = set_learning_rate(optimizer, step, 5, config)
        rates = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
        assert rates.keys() == set(method.parameters())
        assert lr < 0.5
        assert all(r == (0.5 if p in predictor else lr) for p, r in rates.items())


@pytest.mark.parametrize(("decay_all", "scale"), [(True, 0.024), (False, 0.5)])
def test_barlow_twins_biases_are_slower(decay_all: bool, scale: float) -> None:
    assert BarlowTwinsConfig().bias_lr_scale == 0.024
    method = build(BarlowTwinsConfig(hidden_features=8, out_features=8, bias_lr_scale=scale))
    config = OptimConfig(epochs=10, base_lr=0.5, decay_all=decay_all)
    optimizer = build_optimizer(method.param_groups(), config)
    lr = set_learning_rate(optimizer, 25, 5, config)
    groups = {p: g for g in optimizer.param_groups for p in g["params"]}
    assert groups.keys() == set(method.parameters())
    for p, group in groups.items():
        assert math.isclose(group["lr"], lr * (scale if p.ndim == 1 else 1))
        assert group["weight_decay"] == (5e-4 if decay_all or p.ndim > 1 else 0)
