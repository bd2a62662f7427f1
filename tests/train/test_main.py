import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
from timm.models import save_for_hf

from cassle_zoo.common.errors import ConfigError, UnknownNameError
from cassle_zoo.train import idle, init
from cassle_zoo.train.loop import TrainResult
from cassle_zoo.train.main import parse, public_command, run_from_cli
from cassle_zoo.train.methods.augself import AugSelfConfig
from cassle_zoo.train.methods.mocov2 import MoCoV2Config
from cassle_zoo.train.recipes import RECIPES, get_recipe


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
    line = "r.emoji64 --data /a/b=c/pics --out=/c/run --data.root /d/e --arch x"
    assert public_command(line.split()) == (
        "cassle-zoo train r.emoji64 --data pics --out RUN --data.root e --arch x"
    )


def test_command_for_the_card_names_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pics").mkdir()
    monkeypatch.chdir(tmp_path / "pics")
    assert public_command(["r", "--data", "."]) == "cassle-zoo train r --data pics"


def test_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_from_cli(["resnet18_simclr.emoji64", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["conditioning"]["mode"] == "none"


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


def test_help_lists_the_recipes_after_own_images(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    listed = capsys.readouterr().out
    assert all(name in listed and recipe.title in listed for name, recipe in RECIPES.items())
    own = "cassle-zoo train resnet50_cassle_simclr --data photos/ --out runs/mine"
    assert 0 < listed.index(own) < listed.index("resnet18_cassle_simclr.emoji64")


def test_help_shows_the_facts_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["resnet18_cassle_mocov2.emoji64", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for fact in str(RECIPES["resnet18_cassle_mocov2.emoji64"]).splitlines():
        assert fact in shown


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["resnet18_cassle_simclr"], "resnet18_cassle_simclr.mine"),
        (["resnet18_cassle_simclr", "--tag", "birds"], "resnet18_cassle_simclr.birds"),
        (["resnet18_cassle_simclr", "--name", "any"], "any"),
        (["resnet50_simclr.in100"], "resnet50_simclr.in100"),
        (["resnet18_simclr.emoji64", "--arch", "convnext_atto"], "convnext_atto_simclr.emoji64"),
        (["resnet18_simclr.emoji64", "--data.dataset", ""], "resnet18_simclr.mine"),
        (["resnet18_simclr.emoji64", "--data.dataset=", "--tag=x"], "resnet18_simclr.x"),
        (
            [
                *("resnet18_cassle_simclr.emoji64", "--conditioning.mode", "none"),
                "--conditioning.descriptors",
            ],
            "resnet18_simclr.emoji64",
        ),
    ],
)
def test_the_name_is_that_of_what_is_run(argv: list[str], name: str) -> None:
    assert parse(argv).config.name == name


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--name", "resnet34_simclr"], "says resnet34, but the architecture is resnet18"),
        (["--name", "resnet18_cassle_simclr"], "says cassle, but the projector is plain"),
        (["--name", "resnet18_byol.x"], "says byol, but the method is simclr"),
        (["--name", "x.emoji64"], "the images are a folder or archive"),
        (["--name", "x.a", "--tag", "b"], "--tag b is not that of --name x.a"),
    ],
)
def test_names_that_are_not_true_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(["resnet18_simclr", *argv])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model folder for images of 48 pixels with a normalisation of its own."""
    model: Any = timm.create_model("test_resnet")
    own = {"input_size": (3, 48, 48), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    model.pretrained_cfg = {**model.pretrained_cfg, **own}
    save_for_hf(model, str(tmp_path / "weights"), safe_serialization=True)
    return tmp_path / "weights"


def test_views_are_what_the_starting_weights_expect(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    augment = parse(["test_resnet_simclr", "--init", str(weights)]).config.augment
    assert (augment.size, augment.mean, augment.std) == (48, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    said = capsys.readouterr().err
    assert "augment.size 48, augment.mean (0.1, 0.2, 0.3)" in said
    assert "as test_resnet.r160_in1k expects" in said


def test_views_are_what_was_said(weights: Path) -> None:
    argv = ["test_resnet_simclr", f"--init={weights}", "--augment.size", "64"]
    augment = parse([*argv, "--augment.mean", "0.9", "0.9", "0.9"]).config.augment
    assert (augment.size, augment.mean, augment.std) == (64, (0.9, 0.9, 0.9), (0.4, 0.5, 0.6))
    argv = ["resnet18_simclr.emoji64", "--arch", "test_resnet", "--init", str(weights)]
    augment = parse(argv).config.augment
    assert (augment.size, augment.mean) == (64, (0.1, 0.2, 0.3))  # the size is the dataset's


def test_the_recipe_adapt(weights: Path) -> None:
    config = parse(["test_resnet_cassle_byol.adapt", "--init", str(weights)]).config
    assert config.arch == "test_resnet"
    assert config.method.name == "byol"
    assert config.optim.freeze_epochs == 1
    assert config.optim.backbone_bn == "frozen"
    with pytest.raises(ConfigError, match=r"test_resnet_cassle_byol.adapt adapts starting weights"):
        parse(["test_resnet_cassle_byol.adapt"])
    with pytest.raises(UnknownNameError, match="resnet18"):
        parse(["resnet19_cassle_byol.adapt", "--init", str(weights)])


def test_command_for_the_card_hides_where_weights_are() -> None:
    words = ["r.adapt", "--init", "/somewhere/else/w.pth"]
    assert public_command(words) == "cassle-zoo train r.adapt --init w.pth"
    words = ["r.adapt", "--init=hf-hub:org/name"]
    assert public_command(words) == "cassle-zoo train r.adapt --init hf-hub:org/name"


@pytest.mark.parametrize("said", [["--optim.epochs", "2"], ["--optim.epochs=2"]])
def test_few_epochs_need_no_other_warmup(
    said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse(["resnet18_cassle_simclr", *said]).config.optim.warmup_epochs == 1
    assert (
        "optim.warmup_epochs is 1 instead of the recipe's 5, because optim.epochs is 2."
        in capsys.readouterr().err
    )


def test_warmup_that_was_said_or_fits_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["resnet18_cassle_simclr", "--optim.epochs", "2", "--optim.warmup-epochs", "1.5"]
    assert parse(argv).config.optim.warmup_epochs == 1.5
    assert parse(["resnet18_cassle_simclr", "--optim.epochs", "10"]).config.optim.warmup_epochs == 5
    argv = ["resnet18_cassle_simclr.emoji64", "--optim.epochs", "1"]  # older runs continue
    assert parse(argv).config.optim.warmup_epochs == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["--optim.epochs", "0"], "optim.epochs must be"),
        (["--optim.epochs", "2.5"], "2.5"),
        (["--optim.epochs"], "--optim.epochs"),
        (["--optim.epochs", "2", "--optim.warmup-epochs", "5"], "optim.warmup_epochs must be"),
    ],
)
def test_epochs_that_cannot_be(
    said: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        parse(["resnet18_cassle_simclr", *said])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--views.local.size", "32"],
         "--views.local.size does nothing, because views.local.count is 0"),
        (["--augment.vertical-flip.p=0", "--augment.solarize.threshold=0.3"],
         "--augment.solarize.threshold does nothing, because augment.solarize.p is 0"),
        (["--conditioning.mode", "raw_cat", "--conditioning.width", "32"],
         "--conditioning.width does nothing, because conditioning.mode is raw_cat"),
        (["--conditioning.mode", "none"], None),
        (["--optim.optimizer", "lookahead_adamw", "--optim.momentum", "0.5"],
         "--optim.momentum does nothing, because lookahead_adamw has no momentum"),
        (["--optim.optimizer", "lars", "--optim.momentum", "0.5"], None),
        (["--run.monitor-every", "0", "--run.monitor-samples", "9"],
         "--run.monitor-samples does nothing, because run.monitor_every is 0"),
        (["--method.depth", "1", "--method.hidden-features", "9"],
         "--method.hidden-features does nothing, because method.depth is 1"),
        (["--views.local.count", "0", "--augment.solarize.p", "0"], None),
        (["--views.second.p-of", "solarize", "0.2", "--augment.solarize.threshold", "0.3"], None),
    ],
)  # fmt: skip
def test_flags_that_do_nothing_are_named(
    argv: list[str], reason: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    parse(["resnet18_cassle_simclr", *argv])
    said = capsys.readouterr().err
    assert said.count("\n") == (reason is not None)
    assert (reason or "") in said


def test_python_is_told_what_the_command_line_is() -> None:
    for recipe in RECIPES.values():
        assert not list(idle.notes(recipe.config)), recipe.name
    config = get_recipe("resnet18_cassle_simclr")
    config = dataclasses.replace(
        config,
        conditioning=dataclasses.replace(config.conditioning, mode="raw_cat", width=32),
        run=dataclasses.replace(config.run, monitor_every=0, monitor_samples=9),
    )
    assert list(idle.notes(config)) == [
        "conditioning.width does nothing, because conditioning.mode is raw_cat.",
        "run.monitor_samples does nothing, because run.monitor_every is 0.",
    ]
    dino = get_recipe("resnet18_cassle_dino")
    optim = dataclasses.replace(dino.optim, epochs=1, warmup_epochs=0)
    dino = dataclasses.replace(dino, optim=optim)
    assert "prototypes will not learn" in next(idle.notes(dino))


def test_a_baseline_has_no_omega(capsys: pytest.CaptureFixture[str]) -> None:
    parse(["resnet18_simclr", "--conditioning.descriptors", "crop", "--conditioning.depth", "2"])
    assert capsys.readouterr().err == (
        "--conditioning.descriptors does nothing, because conditioning.mode is none.\n"
        "--conditioning.depth does nothing, because conditioning.mode is none.\n"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("resnet18_cassle_simclr.adapt --init resnet18 --optim.backbone-bn eval", ""),
        ("vit_small_simclr --optim.backbone-bn eval", "vit_small has no BatchNorm"),
        ("resnet18_simclr --arch convnext_atto", "`cassle-zoo train convnext_atto_simclr --print"),
        (
            "resnet18_cassle_simclr.emoji64 --arch vit_small",
            "train vit_small_cassle_simclr --print",
        ),
        ("resnet18_simclr --arch resnet34", ""),
        ("resnet18_simclr --arch vit_small --optim.optimizer adamw --optim.base-lr 1e-4", ""),
        ("resnet18_cassle_dino --optim.epochs 1", "prototypes will not learn"),
        ("resnet18_dino --optim.epochs 1 --method.freeze-last-layer-epochs 0.5", ""),
    ],
)
def test_settings_that_do_not_fit_are_named(
    line: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(init, "with_own_preprocessing", lambda config, *_: config)
    parse(line.split())
    notes = capsys.readouterr().err.split("\n")
    wrong = [own for own in notes if own and "instead of the recipe's" not in own]
    assert len(wrong) == bool(said)
    assert not said or said in wrong[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "a", "--data.root", "b"], "'a' and --data.root 'b' are the same setting"),
        (["--dry-run", "--preview", "p.html"], "--preview and --dry-run are done instead of a run"),
    ],
)
def test_flags_that_exclude_each_other(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_from_cli(["resnet18_simclr", *argv])
