import dataclasses
import inspect
import json
import re
from typing import Any

import pytest
import timm

from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import CassleZooError, ConfigError, UnknownNameError
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.loop import TrainResult
from cassle_zoo.train.main import parse, public_command, run_from_cli
from cassle_zoo.train.methods import METHODS
from cassle_zoo.train.methods.augself import AugSelfConfig
from cassle_zoo.train.methods.base import ParamGroup
from cassle_zoo.train.methods.mocov2 import MoCoV2Config
from cassle_zoo.train.optim import build_optimizer, learning_rate
from cassle_zoo.train.recipes import RECIPES, get_recipe
from cassle_zoo.train.trainer import build_method


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_agree_with_the_registry(name: str) -> None:
    config, spec = get_recipe(name), MODEL_SPECS[name]
    assert config.name == name
    assert config.arch == spec.arch
    assert config.method.name == spec.method
    assert (config.conditioning.how != "none") == spec.conditioned
    assert (3, config.augment.size, config.augment.size) == tuple(spec.input_size)
    assert (config.augment.mean, config.augment.std) == (spec.mean, spec.std)
    documentation = inspect.getdoc(RECIPES[name]) or ""
    assert f"cassle-zoo train {name} " in documentation
    assert re.search(r"Hardware(: .*Time: .*\d| and time: the same)", documentation, re.DOTALL)
    assert ("Not run" in documentation) != ("Result: " in documentation)
    json.dumps(config.to_dict())


def test_every_registered_model_has_a_recipe() -> None:
    assert RECIPES.keys() == MODEL_SPECS.keys()


def test_the_command_line_trains_every_method() -> None:
    assert {get_recipe(name).method.name for name in RECIPES} == METHODS.keys()


def test_unknown_recipe() -> None:
    with pytest.raises(UnknownNameError, match=r"resnet18_cassle_simclr.emoji64"):
        get_recipe("resnet18_cassle_simclr.emoji")


@pytest.mark.parametrize(
    ("group", "fields", "message"),
    [
        (OptimConfig, {"epochs": 0}, "optim.epochs"),
        (OptimConfig, {"batch_size": 1}, "optim.batch_size"),
        (OptimConfig, {"warmup_epochs": 101}, "optim.warmup_epochs"),
        (OptimConfig, {"base_lr": float("nan")}, "optim.base_lr"),
        (DataConfig, {"workers": -1}, "data.workers"),
        (DataConfig, {"workers": 99999}, "data.workers"),
        (RunConfig, {"threads": 100_000}, "run.threads"),
        (RunConfig, {"precision": "fp16"}, "fp16"),
        (RunConfig, {"threads": 0}, "run.threads"),
        (RunConfig, {"loggers": ("wandb",)}, "wandb"),
        (RunConfig, {"log_every": 0}, "run.log_every"),
    ],
)
def test_bad_fields(group: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CassleZooError, match=message):
        group(**fields)


def test_learning_rate() -> None:
    config = OptimConfig(epochs=10, batch_size=512, base_lr=0.1, warmup_epochs=2)
    rates = [learning_rate(step, 5, config) for step in range(50)]
    assert max(rates) == rates[10] == pytest.approx(0.2)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[0] < 0.02
    assert 0 < rates[-1] < 0.001
    assert rates[30] == pytest.approx(0.1)  # half-way down


def test_whole_warmup_and_no_warmup() -> None:
    assert learning_rate(0, 5, OptimConfig(epochs=2)) == pytest.approx(0.03)
    config = OptimConfig(epochs=2, warmup_epochs=2)
    assert 0 < learning_rate(9, 5, config) < 0.03


def test_optimizer_follows_the_paper() -> None:
    config = get_recipe("resnet18_cassle_simclr.emoji64")
    method = build_method(dataclasses.replace(config, arch="test_resnet"))
    optimizer = build_optimizer(method.param_groups(), config.optim)
    assert isinstance(optimizer.param_groups, list)
    assert {g["weight_decay"] for g in optimizer.param_groups} == {5e-4}
    assert not optimizer.param_groups[0].get("nesterov")
    assert optimizer.param_groups[0]["momentum"] == 0.9
    groups = method.param_groups()
    split = build_optimizer(groups, dataclasses.replace(config.optim, decay_all=False))
    assert {g["weight_decay"] for g in split.param_groups} == {0.0, 5e-4}


def test_unknown_optimizer() -> None:
    with pytest.raises(UnknownNameError, match=r"'adamww'\. Did you mean 'adamw' .*names\.$"):
        OptimConfig(optimizer="adamww")
    assert OptimConfig(optimizer="lookahead_adamw").optimizer == "lookahead_adamw"


def test_weight_decay_of_a_vit() -> None:
    """MoCo-v3's code decays everything that is trained; `decay_all` False asks timm."""
    config = get_recipe("vit_small_cassle_mocov3.in100")
    assert config.optim.decay_all
    backbone = timm.create_model("test_vit", num_classes=0)
    named = dict(backbone.named_parameters())
    groups = [ParamGroup(parameters=[*named.values()])]
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


@pytest.mark.parametrize("name", ["a/b", "", "../x", "a b", ".hidden"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"name {name!r}")):
        TrainConfig(name=name, arch="resnet18")


def test_command_line_overrides() -> None:
    argv = [
        "resnet18_cassle_simclr.emoji64", "--data", "pics", "--optim.base-lr", "0.5",
        "--conditioning.descriptors", "crop", "flip", "--method.temperature", "0.1",
        "--run.device", "cpu", "--augment.crop-scale", "0.3", "0.9",
    ]  # fmt: skip
    config = parse(argv).config
    assert config.data.root == "pics"
    assert config.data.dataset == "emoji64"
    assert config.optim.base_lr == 0.5
    assert config.conditioning.descriptors == ("crop", "flip")
    assert config.method.temperature == 0.1  # type: ignore[attr-defined]
    assert config.augment.crop_scale == (0.3, 0.9)


def test_command_line_reaches_method_and_augself() -> None:
    argv = ["resnet18_mocov2.emoji64", "--method.enqueue", "queries", "--augself.crop", "0.5"]
    config = parse([*argv, "--augself.first-flip-for-both"]).config
    assert config.method == MoCoV2Config(momentum=0.99, queue_size=4096, enqueue="queries")
    assert config.augself == AugSelfConfig(crop=0.5, first_flip_for_both=True)
    assert config.augself.weights == {"crop": 0.5}


def test_command_for_the_card_hides_folders() -> None:
    argv = [
        "r.emoji64",
        "--data",
        "/a/b=c/pics",
        "--out=/c/run",
        "--data.root",
        "/d/e",
        "--arch",
        "x",
    ]
    assert public_command(argv) == (
        "cassle-zoo train r.emoji64 --data pics --out RUN --data.root e --arch x"
    )


def test_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_from_cli(["resnet18_simclr.emoji64", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["conditioning"]["how"] == "none"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--out", "x"],
        ["resnet18_cassle_simclr.emoji64", "--optim.lr", "1"],
        ["resnet18_mocov2.emoji64", "--method.enqueue", "both", "--out", "x"],
        ["resnet18_cassle_simclr.emoji64", "--optim.epochs", "many", "--out", "x"],
    ],
)
def test_bad_command_lines(argv: list[str]) -> None:
    try:
        status = main(["train", *argv])
    except SystemExit as error:
        status = error.code
    assert status == 2


@pytest.mark.parametrize(("rank", "lines"), [(None, 1), ("0", 1), ("1", 0)])
def test_one_process_says_that_the_run_is_finished(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str | None,
    lines: int,
) -> None:
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    result = TrainResult(steps=1, finished=True)
    monkeypatch.setattr("cassle_zoo.train.main.train", lambda *args, **kwargs: result)
    assert run_from_cli(["resnet18_simclr.emoji64", "--out", "RUN"]) == 0
    assert capsys.readouterr().err.count("finished: RUN/final") == lines
