"""Every field of every settings class refuses what makes no sense, and says its name."""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.common.config import POSITIVE, OneOf, Range, check_fields
from cassle_zoo.common.errors import CassleZooError, ConfigError, UnknownNameError
from cassle_zoo.projector import ProjectorConfig
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.methods import METHODS, ConditioningConfig
from cassle_zoo.train.methods.augself import AugSelfConfig

NEEDED: dict[type, dict[str, Any]] = {
    ProjectorConfig: {"in_features": 8},
    TrainConfig: {"name": "x", "arch": "resnet18"},
}
CLASSES: tuple[Any, ...] = (
    AugmentConfig,
    AugSelfConfig,
    ConditioningConfig,
    DataConfig,
    OptimConfig,
    ProjectorConfig,
    RunConfig,
    TrainConfig,
    *METHODS.values(),
)
ZERO_IS_ALLOWED = re.compile(
    r"(flip|jitter|grayscale|blur)_p|brightness|contrast|saturation|hue|.*_weight|bias_lr_scale"
    r"|momentum|base_lr|warmup_epochs|freeze_epochs|ema_decay|weight_decay|seed|workers"
    r"|max_bad_fraction|monitor_.*|snapshot_every|warmup_teacher_epochs|center_momentum"
    r"|freeze_last_layer_epochs"
    r"|crop|color|color_diff|flip|blur"  # of AugSelf
)
ANY_NUMBER_IS_ALLOWED = ("mean",)
EMPTY_IS_ALLOWED = ("loggers", "extra")
TEXTS = ("root", "dataset", "split", "image_column", "device", "name", "init")  # checked where used


def fields() -> Iterator[Any]:
    for cls in CLASSES:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            yield pytest.param(
                cls, field.name, hints[field.name], id=f"{cls.__name__}.{field.name}"
            )


def absurd(name: str, kind: Any) -> list[Any]:
    """Values that no field of the kind may take."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        [kind] = [part for part in typing.get_args(kind) if part is not type(None)]
    elif typing.get_origin(kind) is Literal or kind in (bool, int, float):
        return [None, *absurd_single(name, kind)]
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        length = 2 if inner[-1] is Ellipsis else len(inner)
        tuples = [(value,) * length for value in absurd_single(name, inner[0])]
        wrong = [] if name in EMPTY_IS_ALLOWED or name == "descriptors" else [()]
        return [*tuples, *wrong, None, 3, "crop", {}]
    return absurd_single(name, kind)


def absurd_single(name: str, kind: Any) -> list[Any]:
    if typing.get_origin(kind) is Mapping:
        return [0, "yes", [1, "x"], object(), {1: ("x",)}, {"x": 3}]
    anything = [object(), {}, [1, "x"], b"1"]
    if kind in (int, float):
        numbers = [math.nan, math.inf, -math.inf, True]
        if name not in ANY_NUMBER_IS_ALLOWED:
            numbers += [-1]
            if not ZERO_IS_ALLOWED.fullmatch(name):
                numbers += [0]
        if kind is int:
            numbers += [1.5]
        return [*numbers, "1", *anything]
    if kind is str:
        return [1, math.nan, *anything, *([] if name in TEXTS else ["no-such-name", ""])]
    return [0, "yes", *anything]


@pytest.mark.parametrize(("cls", "name", "kind"), list(fields()))
def test_absurd_values_are_refused(cls: Any, name: str, kind: Any) -> None:
    values = absurd(name, kind)
    assert len(values) > 3
    for value in values:
        given = NEEDED.get(cls, {}) | {name: value}
        with pytest.raises((ConfigError, UnknownNameError)) as caught:
            cls(**given)
        message = str(caught.value)
        # A tuple's message may name one member: 'descriptor' of descriptors.
        assert name.rstrip("s") in message, (value, message)
        if isinstance(value, int | float | str):
            assert str(value) in message, (value, message)


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_allowed(cls: Any) -> None:
    made = cls(**NEEDED.get(cls, {}))
    assert dataclasses.replace(made) == made


def test_checker() -> None:
    @dataclasses.dataclass
    class Settings:
        count: Annotated[int, Range(1)] = 1
        share: Annotated[float, Range(0, 1)] | None = None
        rate: Annotated[float, POSITIVE] | Literal["auto"] = "auto"
        names: tuple[Annotated[str, OneOf(("a", "b"))], ...] = ()

    numbers: dict[str, Any] = {"count": np.int64(2), "share": np.float32(0.5)}
    settings = Settings(**numbers, names=("a", "b"))
    check_fields(settings, "x.")
    assert json.dumps(dataclasses.asdict(settings)).startswith('{"count": 2, "share": 0.5,')
    check_fields(Settings(share=1, rate=0.1))
    for bad, message in [
        (Settings(count=0), "x.count must be a whole number of at least 1, got 0"),
        (Settings(share=1.5), "x.share"),
        (Settings(share=10**400), "x.share"),
        (Settings(rate="none"), "x.rate"),  # type: ignore[arg-type]
        (Settings(names=("c",)), "Unknown x.names 'c'"),
    ]:
        with pytest.raises(CassleZooError, match=message):
            check_fields(bad, "x.")
