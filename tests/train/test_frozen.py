"""What of a backbone learns, and when."""

import dataclasses
from typing import Any

import pytest
import timm
import torch
from changes import change
from torch import nn

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.train.config import OptimConfig, TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.methods.barlow_twins import BarlowTwinsConfig
from cassle_zoo.train.methods.mocov3 import MoCoV3Config
from cassle_zoo.train.optim import build_optimizer, set_learning_rate
from cassle_zoo.train.run.monitor import Monitor
from cassle_zoo.train.trainer import Trainer, build_method

PER_EPOCH = 5
NORM_PARAMETERS = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, value in module.state_dict().items() if not value.equal(before[key])}


def steps(trainer: Trainer, count: int) -> None:
    config, total = trainer.config, 10
    dataset = open_dataset(config.data)
    for batch in batches(config, dataset, trainer.step, trainer.step + count):
        trainer.train_step(batch, total)


def test_the_backbone_is_frozen_at_first(config: TrainConfig) -> None:
    trainer = Trainer(change(config, "optim", freeze_epochs=0.6), PER_EPOCH)
    backbone, before = trainer.method.backbone, state_of(trainer.method.backbone)
    projector = state_of(trainer.method.projector)
    steps(trainer, 3)
    assert changed(backbone, before) == set()
    assert {key.partition(".")[0] for key in changed(trainer.method.projector, projector)} == {
        "encoder",
        "layers",
    }
    steps(trainer, 1)
    learned = changed(backbone, before)
    assert {key for key in before if key.endswith(STATISTICS)} <= learned
    assert {"conv1.0.weight", "bn1.weight", "layer1.0.conv1.weight"} <= learned


@pytest.mark.parametrize(("setting", "fixed"), [("eval", STATISTICS), ("frozen", NORM_PARAMETERS)])
def test_batch_norms(config: TrainConfig, setting: str, fixed: tuple[str, ...]) -> None:
    trainer = Trainer(change(config, "optim", backbone_bn=setting), PER_EPOCH)
    backbone: Any = trainer.method.backbone
    norms = {n for n, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    held = {f"{norm}.{name}" for norm in norms for name in {*STATISTICS, *fixed}}
    before = state_of(backbone)
    steps(trainer, 2)
    assert changed(backbone, before) == before.keys() - held
    Monitor(open_dataset(config.data), config.augment, 8)(backbone, trainer.device)
    backbone.train()  # as code that measures the backbone might leave it
    steps(trainer, 1)
    assert changed(backbone, before) == before.keys() - held


def test_the_teacher_normalises_like_the_backbone(config: TrainConfig) -> None:
    method = MoCoV3Config(hidden_features=16, out_features=8, predictor_features=16)
    config = dataclasses.replace(config, name="auto", method=method)
    trainer = Trainer(change(config, "optim", backbone_bn="frozen"), PER_EPOCH)
    teacher: Any = trainer.method.teacher
    before = state_of(teacher.backbone)
    steps(trainer, 2)
    same = before.keys() - changed(teacher.backbone, before)
    assert {key for key in before if key.endswith(STATISTICS)} <= same


def test_continuing_in_the_middle_is_exact(config: TrainConfig, tmp_path: Any) -> None:
    config = change(
        config, "optim", freeze_epochs=0.6, backbone_bn="frozen", layer_decay=0.7, warmup_epochs=0.4
    )
    whole = Trainer(config, PER_EPOCH)
    steps(whole, 7)
    for stop in (2, 3, 5):
        first = Trainer(config, PER_EPOCH)
        steps(first, stop)
        out = tmp_path / str(stop)
        out.mkdir()
        first.save(out)
        second = Trainer(config, PER_EPOCH)
        second.restore(out)
        steps(second, 7 - stop)
        expected = whole.method.state_dict()
        assert all(v.equal(expected[k]) for k, v in second.method.state_dict().items())


def test_rates_of_layers() -> None:
    """timm's own layers of a ResNet; the projector learns at the full rate."""
    backbone: Any = timm.create_model("resnet18", num_classes=0)
    projector = nn.Linear(4, 4)
    groups = [{"params": [*backbone.parameters(), *projector.parameters()]}]
    config = OptimConfig(base_lr=1.0, batch_size=256, layer_decay=0.5, backbone_lr_scale=0.1)
    optimizer = build_optimizer(groups, config, backbone)
    assert set_learning_rate(optimizer, 0, 10, config) == 1.0
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(projector.weight)] == 1.0
    last, before_it = backbone.layer4[1].conv2.weight, backbone.layer4[0].conv2.weight
    assert rate[id(last)] == pytest.approx(0.1)
    assert rate[id(before_it)] == pytest.approx(0.05)
    assert rate[id(backbone.conv1.weight)] == pytest.approx(0.1 * 0.5**8)
    assert len(rate) == len([*backbone.parameters()]) + 2


def test_rates_of_methods_are_multiplied(config: TrainConfig) -> None:
    """Barlow Twins has a rate of its own for biases and normalisations."""
    barlow = BarlowTwinsConfig(hidden_features=16, out_features=16)
    method = build_method(dataclasses.replace(config, name="auto", method=barlow))
    optim = OptimConfig(backbone_lr_scale=0.5, decay_all=False)
    optimizer = build_optimizer(method.param_groups(), optim, method.backbone)
    scales = {(g.get("backbone", False), g.get("lr_scale", 1.0)) for g in optimizer.param_groups}
    assert scales == {(False, 1.0), (False, 0.024), (True, 0.5), (True, 0.012)}


def test_the_backbone_warms_up_when_it_is_released() -> None:
    config = OptimConfig(epochs=10, base_lr=1.0, batch_size=256, warmup_epochs=1, freeze_epochs=2)
    backbone, projector = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [{"params": [*backbone.parameters(), *projector.parameters()]}]
    optimizer = build_optimizer(groups, config, backbone)
    seen = []
    for step in range(100):
        lr = set_learning_rate(optimizer, step, 10, config)
        by_part = {g.get("backbone", False): g["lr"] for g in optimizer.param_groups}
        assert by_part[False] == lr
        seen.append(by_part[True] / lr)
    assert seen[:20] == [0.0] * 20
    assert seen[20:30] == pytest.approx([(n + 1) / 11 for n in range(10)])
    assert seen[30:] == [1.0] * 70


def test_the_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"freeze_epochs must be within .* 100\], got 101"):
        OptimConfig(freeze_epochs=101)
    for name, wrong in (("layer_decay", 0.0), ("layer_decay", 1.1), ("backbone_lr_scale", 0.0)):
        with pytest.raises(ConfigError, match=name):
            dataclasses.replace(OptimConfig(), **{name: wrong})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"does not know the layers of Linear"):
        build_optimizer([], OptimConfig(layer_decay=0.5), nn.Linear(2, 2))


def test_the_defaults_are_what_was_before(config: TrainConfig) -> None:
    """One group of all parameters in their order, so that older checkpoints fit."""
    trainer = Trainer(config, PER_EPOCH)
    (group,) = trainer.optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in trainer.method.parameters()]
    assert not {"backbone", "lr_scale"} & group.keys()
