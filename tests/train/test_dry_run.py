import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from changes import change

from cassle_zoo.common.errors import DataError, NotEnoughMemoryError
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.dry_run import _load, dry_run
from cassle_zoo.train.main import run_from_cli
from cassle_zoo.train.methods.byol import BYOLConfig
from cassle_zoo.train.methods.mocov2 import MoCoV2Config
from cassle_zoo.train.trainer import Trainer


def test_own_data(config: TrainConfig) -> None:
    cost = dry_run(config)
    assert (cost.steps_per_epoch, cost.steps) == (5, 10)
    assert cost.load_seconds is not None
    assert cost.seconds == pytest.approx(10 * (cost.step_seconds + cost.load_seconds))
    assert 2**26 < cost.peak_bytes < 2**40
    backbone: Any = timm.create_model("test_resnet", num_classes=0)
    width = backbone.num_features
    assert cost.parameters == {
        "backbone": sum(p.numel() for p in backbone.parameters()),
        "projector": (width + 64) * width + 2 * width + width * 128 + 128,
        "augmentation encoder": 13 * 64 + 5 * 64 * 64 + 6 * 2 * 64,
        "trained": sum(list(cost.parameters.values())[:3]),
    }


def test_noise(config: TrainConfig) -> None:
    cost = dry_run(change(config, "data", root="", samples=43, workers=2))
    assert (cost.steps_per_epoch, cost.steps) == (10, 20)
    assert cost.load_seconds is None
    assert cost.seconds == pytest.approx(20 * cost.step_seconds)
    assert "--data" in str(cost)


def test_the_size_of_known_data(config: TrainConfig) -> None:
    method = BYOLConfig(predictor_features=8)
    config = dataclasses.replace(change(config, "data", root="", dataset="emoji64"), method=method)
    cost = dry_run(config)
    assert cost.steps_per_epoch == 8718 // 4
    parts = cost.parameters
    assert parts["predictor"] == 256 * 8 + 2 * 8 + 8 * 256 + 256
    assert parts["teacher"] == sum(
        parts[name] for name in ("backbone", "projector", "augmentation encoder")
    )
    assert parts["trained"] == parts["teacher"] + parts["predictor"]


def test_unknown_size(config: TrainConfig) -> None:
    with pytest.raises(DataError, match=r"--data\.samples"):
        dry_run(change(config, "data", root=""))


def test_the_size_of_data_that_the_name_says(config: TrainConfig) -> None:
    changed = dataclasses.replace(change(config, "data", root=""), name="my.in100")
    assert dry_run(changed).steps_per_epoch == 126_689 // 4


def test_fewer_steps_than_are_timed(config: TrainConfig) -> None:
    config = change(config, "optim", epochs=1, batch_size=22)
    config = dataclasses.replace(config, method=MoCoV2Config(queue_size=8))
    told: list[str] = []
    cost = dry_run(config, told.append)
    assert [text.split()[0] for text in told] == ["backbone", "step", "peak"]
    assert cost.steps == 1
    assert cost.step_seconds > 0


def test_steps_that_train_the_backbone_are_timed(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[bool] = []
    train_step = Trainer.train_step

    def step(self: Trainer, *args: Any) -> dict[str, float]:
        values = train_step(self, *args)
        trained.append(all(p.grad is not None for p in self.method.backbone.parameters()))
        return values

    monkeypatch.setattr(Trainer, "train_step", step)
    for freeze_epochs, expected in (1.0, [True] * 4), (2.0, [False] * 4):
        cost = dry_run(change(config, "optim", freeze_epochs=freeze_epochs))
        assert (cost.steps, trained) == (10, expected)
        trained.clear()


def test_too_little_memory(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "train_step", full)
    with pytest.raises(NotEnoughMemoryError, match=r"batches of 4 \(CUDA.*--optim\.batch-size 2 "):
        dry_run(config)


def test_workers_beyond_the_processors_read_no_faster(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cassle_zoo.train.dry_run.usable_cores", lambda: 2)
    monkeypatch.setattr("cassle_zoo.train.dry_run._load", lambda *args: (1000.0, _load(*args)[1]))
    cost = dry_run(change(config, "data", workers=8))
    assert cost.load_seconds == 500
    assert cost.seconds == 10 * 500


def test_command(
    config: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["resnet18_cassle_mocov2.emoji64", "--dry-run", "--optim.batch-size", "2"]
    argv += ["--arch", "test_resnet", "--run.threads", "1", "--method.queue-size", "8"]
    assert run_from_cli([*argv, "--out", "run"]) == 0
    printed = capsys.readouterr().out
    for word in ("backbone parameters", "encoder", "teacher", "108,975", "GiB", "time"):
        assert word in printed
    assert list(tmp_path.iterdir()) == []
