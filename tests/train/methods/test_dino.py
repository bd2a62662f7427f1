"""DINO against its authors' code, written once more from github.com/facebookresearch/dino."""

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.data.view_config import LocalViews, ViewsConfig
from cassle_zoo.train.methods import ConditioningConfig, Views
from cassle_zoo.train.methods.dino import DINO, DINOConfig
from cassle_zoo.train.methods.losses import dino_loss

EPOCHS, PER_EPOCH = 4, 2
PROTOTYPES = 10
CONFIG = DINOConfig(
    hidden_features=20,
    out_features=8,
    prototypes=PROTOTYPES,
    warmup_teacher_epochs=3,
    momentum=0.9,
)


class OfficialLoss:
    """DINOLoss of main_dino.py, without the all-reduce."""

    def __init__(self, ncrops: int) -> None:
        self.student_temp, self.center_momentum, self.ncrops = 0.1, 0.9, ncrops
        self.center = torch.zeros(1, PROTOTYPES, dtype=torch.float64)
        self.teacher_temp_schedule = np.concatenate(
            (np.linspace(0.04, 0.07, 3), np.ones(EPOCHS - 3) * 0.07)
        )

    def __call__(self, student_output: Tensor, teacher_output: Tensor, epoch: int) -> Tensor:
        student_out = (student_output / self.student_temp).chunk(self.ncrops)
        temp = self.teacher_temp_schedule[epoch]
        teacher_out = F.softmax((teacher_output - self.center) / temp, dim=-1).detach().chunk(2)
        total_loss, n_loss_terms = torch.zeros(()), 0
        for iq, q in enumerate(teacher_out):
            for v in range(len(student_out)):
                if v == iq:
                    continue
                loss = torch.sum(-q * F.log_softmax(student_out[v], dim=-1), dim=-1)
                total_loss = total_loss + loss.mean()
                n_loss_terms += 1
        batch_center = torch.sum(teacher_output, dim=0, keepdim=True) / len(teacher_output)
        self.center = self.center * 0.9 + batch_center.detach() * (1 - 0.9)
        return total_loss / n_loss_terms


class OfficialHead(nn.Module):
    """The end of DINOHead, after its MLP."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        count, width = weight.shape
        layer = nn.Linear(width, count, bias=False, dtype=torch.float64)
        layer.weight.data.copy_(weight)
        self.last_layer = torch.nn.utils.parametrizations.weight_norm(layer)
        self.gain.data.fill_(1)
        self.gain.requires_grad = False

    @property
    def gain(self) -> Any:
        weights: Any = self.last_layer.parametrizations
        return weights.weight.original0

    @property
    def direction(self) -> Any:
        weights: Any = self.last_layer.parametrizations
        return weights.weight.original1

    def forward(self, x: Tensor) -> Tensor:
        x = self.last_layer(F.normalize(x, dim=-1, p=2))
        return x


def cosine_scheduler(base: float, final: float, epochs: int, niter_per_ep: int) -> Any:
    iters = np.arange(epochs * niter_per_ep)
    return final + 0.5 * (base - final) * (1 + np.cos(np.pi * iters / len(iters)))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(24, 32)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(x))


def build(config: DINOConfig = CONFIG, mode: str = "cat") -> Any:
    torch.manual_seed(0)
    conditioning = ConditioningConfig(mode=mode, descriptors=("crop", "flip"), depth=2, width=6)
    if mode == "none":
        conditioning = ConditioningConfig(mode=mode, descriptors=())
    method = config.build(Backbone(), config.projector(32, conditioning))
    with torch.no_grad():  # else the first targets would not depend on the centre
        for p in method.teacher.parameters():  # type: ignore[union-attr]
            p.add_(0.05 * torch.randn_like(p))
    return method.double().train()


def random_views(seed: int, local: int = 3) -> Views:
    torch.manual_seed(seed)
    images = tuple(torch.randn(12, 24, dtype=torch.float64) for _ in range(2 + local))
    omegas = tuple(torch.randn(12, 5, dtype=torch.float64) for _ in images)
    return Views(images=images, descriptors=omegas, local=local)


@pytest.mark.parametrize("mode", ["cat", "none"])
@pytest.mark.parametrize("local", [0, 3])
def test_steps_equal_the_authors_code(mode: str, local: int) -> None:
    method = build(mode=mode)
    f, g, h = (copy.deepcopy(m) for m in (method.backbone, method.projector, method.last_layer))
    tf, tg, th = (
        copy.deepcopy(m)
        for m in (method.teacher.backbone, method.teacher.projector, method.teacher.last_layer)
    )
    head, teacher_head = OfficialHead(h.weight), OfficialHead(th.weight)
    official_loss = OfficialLoss(2 + local)
    momentum = cosine_scheduler(0.9, 1, EPOCHS, PER_EPOCH)
    settings = {"lr": 0.5, "momentum": 0.9, "weight_decay": 1e-2}
    theirs = torch.optim.SGD(
        [*f.parameters(), *g.parameters(), head.direction],
        **settings,  # type: ignore[arg-type]
    )
    ours = torch.optim.SGD(
        [p for p in method.parameters() if p.requires_grad],
        **settings,  # type: ignore[arg-type]
    )
    total = EPOCHS * PER_EPOCH
    for step in range(total):
        views, epoch = random_views(step, local), step // PER_EPOCH
        method.before_step(step / PER_EPOCH, step / total)
        loss, _ = method(views)
        ours.zero_grad()
        loss.backward()
        method.before_update()
        ours.step()
        method.after_step((step + 1) / total)

        pairs = list(zip(views.images, views.descriptors, strict=True))
        with torch.no_grad():
            teacher_output = torch.cat([teacher_head(tg(tf(x), w)) for x, w in pairs[:2]])
        student_output = torch.cat([head(g(f(x), w)) for x, w in pairs])
        expected = official_loss(student_output, teacher_output, epoch)
        theirs.zero_grad()
        expected.backward()
        if epoch < 1:
            head.direction.grad = None
        theirs.step()
        with torch.no_grad():
            m = momentum[step]
            for student, teacher in ((f, tf), (g, tg), (head, teacher_head)):
                for q, k in zip(student.parameters(), teacher.parameters(), strict=True):
                    k.data.mul_(m).add_((1 - m) * q.detach().data)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
        if step + 1 == PER_EPOCH:
            assert torch.equal(method.last_layer.weight, h.weight)  # still frozen

    close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-10)
    close(method.center, official_loss.center[0])
    close(method.last_layer.weight, head.direction)
    assert not torch.allclose(method.last_layer.weight, h.weight)
    close(method.teacher.last_layer.weight, teacher_head.direction)
    parts = (method.backbone, f), (method.projector, g), (method.teacher.backbone, tf)
    for mine, other in (*parts, (method.teacher.projector, tg)):
        for key, value in other.state_dict().items():
            close(mine.state_dict()[key], value)


@pytest.mark.parametrize(
    ("scores", "targets"),
    [((1, 4, 5), (1, 4, 5)), ((2, 4, 5), (3, 4, 5)), ((2, 4, 5), (2, 4, 6)), ((4, 5), (4, 5)),
     ((2, 4, 5), (2, 1, 5)), ((2, 0, 5), (2, 0, 5)), ((2, 4, 5), (0, 4, 5))],
)  # fmt: skip
def test_shapes_that_do_not_fit(scores: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"targets \(T, B, K\)"):
        dino_loss(torch.rand(scores), torch.rand(targets))


def test_the_schedule_of_the_teachers_temperature() -> None:
    expected = np.linspace(0.04, 0.07, 30)
    found = [DINOConfig().teacher_temperature_at(epoch) for epoch in range(32)]
    np.testing.assert_allclose(found, [*expected, 0.07, 0.07], rtol=0, atol=1e-12)
    once = dataclasses.replace(CONFIG, warmup_teacher_epochs=1)
    assert [once.teacher_temperature_at(epoch) for epoch in (0, 1)] == [0.04, 0.07]
    never = dataclasses.replace(CONFIG, warmup_teacher_epochs=0)
    assert never.teacher_temperature_at(0) == 0.07


def test_teacher_gets_no_gradient_and_sees_omega() -> None:
    method, views = build(), random_views(0)
    assert isinstance(method, DINO)
    loss, logs = method(views)
    loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    trained = {p for group in method.param_groups() for p in group["params"]}
    assert all(p.grad is not None for p in trained)
    assert not trained & set(method.teacher.parameters())
    other = dataclasses.replace(views, descriptors=tuple(w + 1 for w in views.descriptors))
    fresh = build()
    assert fresh(other)[1]["teacher_entropy"] != logs["teacher_entropy"]  # made by the teacher


def test_local_crops_have_no_targets() -> None:
    views = random_views(0)
    changed = (*views.images[:2], *(x + 1 for x in views.images[2:]))
    (loss, logs), (other, other_logs) = (
        build()(v) for v in (views, dataclasses.replace(views, images=changed))
    )
    assert loss != other
    assert logs["teacher_entropy"] == other_logs["teacher_entropy"]


def test_evaluating_leaves_the_centre_alone() -> None:
    method = build().eval()
    method(random_views(0))
    method.train()
    method(random_views(1))
    method.after_step(0.1)
    expected = build()
    expected(random_views(1))
    expected.after_step(0.1)
    assert torch.equal(method.center, expected.center)


def entropies(**changes: Any) -> tuple[float, float]:
    """Train on eight clusters that share an offset; return both entropies at the end."""
    torch.manual_seed(0)
    config = DINOConfig(
        out_features=8,
        prototypes=16,
        momentum=0.9,
        warmup_teacher_epochs=0,
        freeze_last_layer_epochs=0,
        **changes,
    )
    shape = ProjectorConfig(
        in_features=16, out_features=8, depth=1, conditioning="none", descriptors=()
    )
    method = config.build(nn.Linear(16, 16), shape).train()
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    clusters = torch.randn(8, 16) + 1
    for step in range(120):
        x = clusters[torch.randint(8, (64,))]
        images = tuple(x + 0.3 * torch.randn(64, 16) for _ in range(2))
        method.before_step(step / 10, step / 120)
        loss, logs = method(Views(images=images, descriptors=(torch.empty(64, 0),) * 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step((step + 1) / 120)
    return float(logs["teacher_entropy"]), float(logs["marginal_entropy"])


def test_centring_and_sharpening_prevent_a_collapse() -> None:
    teacher, marginal = entropies()
    assert teacher < 0.3
    assert marginal > 0.5  # images differ in their prototypes
    _, marginal = entropies(center_momentum=1.0)
    assert marginal < 0.05  # without centring all have the same
    teacher, _ = entropies(teacher_temperature=1.0)
    assert teacher > 0.99  # without sharpening none has one


def test_a_run_with_local_crops_resumes_to_the_bit(
    config: TrainConfig, tmp_path: Path, fault_at: Any
) -> None:
    """Interrupted in the first epoch, when the last layer is frozen, and in the third."""
    config = dataclasses.replace(
        config,
        name="test_resnet_cassle_dino.tiny",
        method=dataclasses.replace(CONFIG, momentum=0.9),
        conditioning=ConditioningConfig(depth=2, width=8),
        views=ViewsConfig(count=3, local=LocalViews(count=2, size=24)),
        optim=dataclasses.replace(config.optim, epochs=3, base_lr=0.5),
        run=dataclasses.replace(config.run, monitor_every=0),
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert loop.train(config, whole).steps == 15
    for stop in (3, 13):
        with fault_at(stop), pytest.raises(KeyboardInterrupt):
            loop.train(config, broken)
    assert loop.train(config, broken).finished
    first, second = load_checkpoint(whole)[0], load_checkpoint(broken)[0]
    assert first is not None
    assert second is not None
    assert first["method"].keys() == second["method"].keys()
    assert all(torch.equal(v, second["method"][k]) for k, v in first["method"].items())
    assert first["method"]["center"].abs().max() > 0
