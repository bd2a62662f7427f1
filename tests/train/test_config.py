import json
import re
from typing import Any

import numpy as np
import pytest

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.errors import CassleZooError, ConfigError, UnknownNameError
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.methods.simclr import SimCLRConfig


@pytest.mark.parametrize(
    ("group", "fields", "message"),
    [
        (OptimConfig, {"batch_size": 1}, "optim.batch_size"),
        (OptimConfig, {"warmup_epochs": 101}, "optim.warmup_epochs"),
        (OptimConfig, {"clip_mode": "agc"}, "clip_mode 'agc' does nothing without optim.clip_grad"),
        (OptimConfig, {"clip_mode": "norms"}, "clip_mode 'norms'. Did you mean 'norm'"),
        (OptimConfig, {"ema_decay": 1.5}, "optim.ema_decay"),
        (DataConfig, {"workers": 99999}, "data.workers"),
        (RunConfig, {"threads": 100_000}, "run.threads"),
    ],
)
def test_bad_fields(group: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CassleZooError, match=message):
        group(**fields)


def test_unknown_optimizer() -> None:
    with pytest.raises(UnknownNameError, match=r"'adamww'\. Did you mean 'adamw' .*names\.$"):
        OptimConfig(optimizer="adamww")
    assert OptimConfig(optimizer="lookahead_adamw").optimizer == "lookahead_adamw"


@pytest.mark.parametrize("name", ["a/b", "", "../x", "a b", ".hidden"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"name {name!r}")):
        TrainConfig(name=name, arch="resnet18")


def test_numbers_of_numpy_are_stored() -> None:
    whole: dict[int, Any] = {number: np.int64(number) for number in (3, 32, 64)}
    half: Any = np.float32(0.5)
    config = TrainConfig(
        arch="resnet18",
        method=SimCLRConfig(out_features=whole[64]),
        augment=AugmentConfig(size=whole[32], crop_scale=(half, 1)),
        optim=OptimConfig(epochs=whole[3], base_lr=half),
    )
    stored = config.to_dict()
    assert stored["method"]["out_features"] == 64
    assert stored["augment"]["crop_scale"] == [0.5, 1]
    assert stored["optim"]["epochs"] == 3
    assert stored["optim"]["base_lr"] == 0.5
    projector = config.method.projector(512, config.conditioning)
    assert json.dumps(projector.to_dict())
