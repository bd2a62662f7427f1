"""Training, extraction and evaluation on an imitated GPU: nothing is left on the CPU."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from builders import image_folder
from changes import change, small_method
from imitated_gpu import GPU, imitated_gpu

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.eval.protocols.linear_probe import Samples, linear_probe
from cassle_zoo.features.extract import Extractor
from cassle_zoo.features.nearest import knn_predict
from cassle_zoo.features.whitening import Whitening
from cassle_zoo.train import loop
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.data.datasets import open_dataset
from cassle_zoo.train.data.loading import batches
from cassle_zoo.train.methods import METHODS
from cassle_zoo.train.methods.augself import AugSelfConfig
from cassle_zoo.train.trainer import Trainer


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    with imitated_gpu():
        yield


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    root = image_folder(tmp_path / "images", [f"class{i % 2}/{i}.png" for i in range(8)])
    return TrainConfig(
        name="tiny",
        arch="test_resnet",
        method=small_method("simclr"),
        augment=AugmentConfig(size=32),
        augself=AugSelfConfig(crop=0.5, color=0.5),
        data=DataConfig(root=str(root), workers=0),
        optim=OptimConfig(epochs=2, batch_size=4, base_lr=0.1),
        run=RunConfig(threads=1, monitor_every=1, loggers=("csv",)),
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_every_method(config: TrainConfig, name: str) -> None:
    config = dataclasses.replace(config, method=small_method(name))
    trainer = Trainer(config, per_epoch=2)
    (batch,) = batches(config, open_dataset(config.data), 0, 1)
    trainer.train_step(batch, 4)
    assert {x.device for x in trainer.method.state_dict().values()} == {GPU}


def test_a_run_in_fp16_continues_from_its_checkpoint(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = change(config, "run", precision="fp16", checkpoint_every=1)
    config = change(config, "optim", accumulate=2, clip_grad=1.0, ema_decay=0.9, optimizer="adamw")
    step = Trainer.train_step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "train_step", _interrupted(step))
        loop.train(config, tmp_path / "run")
    assert loop.train(config, tmp_path / "run").finished


def _interrupted(step: Callable[..., Any]) -> Callable[..., Any]:
    def train_step(self: Trainer, *args: Any) -> Any:
        if self.step == 1:
            raise KeyboardInterrupt
        return step(self, *args)

    return train_step


def test_features_whitened_by_what_was_fitted_on_the_gpu() -> None:
    images = torch.rand(3, 3, 32, 32)
    whitening = Whitening.fit(torch.randn(40, 96, device="cuda"), 2)
    model = timm.create_model("test_resnet", num_classes=0)
    features = Extractor(model, transform="as_is", whiten=whitening).compute(images)["pooled"]
    assert features.shape == (3, 2)
    assert features.device.type == "cpu"


def test_measures_on_the_gpu() -> None:
    features, labels = torch.randn(20, 4, device="cuda"), torch.arange(20) % 2
    samples = Samples(features, labels)
    assert linear_probe(samples, samples, samples, num_classes=2).test_logits.device == GPU
    assert knn_predict(features, labels.cuda(), features, num_classes=2).device == GPU


@pytest.mark.parametrize(
    "mixture",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3)[x.long()],
        lambda x: torch.stack([x[0], torch.tensor(1.0)]),
        lambda x: x.numpy(),
        lambda _: torch.rand(3, device="cuda", generator=torch.Generator()),
    ],
)
def test_mixtures_of_devices_are_refused(mixture: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError), match="device"):
        mixture(torch.zeros(3, device="cuda"))
