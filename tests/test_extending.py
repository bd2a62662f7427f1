"""An augmentation from outside the package, as docs/extending.md has it, from views to results."""

import functools
import importlib
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from builders import image_folder, make_image
from torch import Tensor

import cassle_zoo
from cassle_zoo import Augmentation, DescribedViews, ProjectorConfig, register_augmentation
from cassle_zoo.augmentation import base, registry
from cassle_zoo.augmentation.augment import AugmentConfig, apply_params, describe, sample_params
from cassle_zoo.augmentation.descriptors import DescriptorLayout
from cassle_zoo.common.errors import CassleZooError, ConfigError, ModelFolderError, UnknownNameError
from cassle_zoo.eval.base import Compute, EvalContext
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols.equivariance import Equivariance
from cassle_zoo.eval.protocols.sensitivity import Sensitivity
from cassle_zoo.eval.sources import open_source
from cassle_zoo.hub.export import export_run
from cassle_zoo.store.folder import CONFIG_FILE
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.main import parse
from cassle_zoo.train.run.fingerprint import check_same_run
from cassle_zoo.train.trainer import build_method

DOC = Path(__file__).parent.parent / "docs" / "extending.md"
SECTION = DOC.read_text("utf-8").partition("## A new augmentation\n")[2].partition("\n## ")[0]
EVALUATOR = DOC.read_text("utf-8").partition("## A protocol\n")[2].partition("\n## ")[0]
FILE, SCRIPT = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
[EVALUATOR_CODE] = re.findall(r"^```python\n(.*?)^```", EVALUATOR, re.MULTILINE | re.DOTALL)
CHANGES = {
    "epochs=100, batch_size=128": "epochs=2, batch_size=8",
    "resnet18": "test_resnet",
    "Gain(p=0.5)": "Gain(p=0.5, stops=2)",
}
SMALL = functools.reduce(lambda text, item: text.replace(*item), CHANGES.items(), SCRIPT)
RECIPE = "resnet18_cassle_simclr.emoji64"


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.augmentations()
    monkeypatch.setattr(base, "_registered", base.registered())


@pytest.fixture
def gain(_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the document."""
    (tmp_path / "gain.py").write_text(FILE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("gain")
    del sys.modules["gain"]


def folder_of_classes(root: Path, count: int) -> Path:
    parts = {"train": count, "test": count // 3}
    names = [f"{part}/{n % 2}/{n}.png" for part, own in parts.items() for n in range(own)]
    return image_folder(root, names)


def test_the_evaluator(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(EVALUATOR_CODE, DOC, "exec"), namespace)
    data = open_data("folder", folder_of_classes(tmp_path, 12))
    context = EvalContext(open_source("raw-pixels"), data, Compute(no_cache=True))
    outcome = namespace["NearestMean"]().evaluate(context)
    metrics = outcome.metrics["classes"]
    assert set(metrics) == {"nearest_mean_top1", "nearest_mean_mean_per_class"}
    assert 0 <= metrics["nearest_mean_top1"] <= 1
    assert len(outcome.scores[0].rows) == 4


def test_the_file_is_short() -> None:
    assert len(FILE.splitlines()) <= 40


def test_views(gain: Any) -> None:
    config = AugmentConfig(
        size=16, flip_p=0, jitter_p=0, grayscale_p=0, blur_p=0, extra=(gain.Gain(p=0.5, stops=2),)
    )
    source = torch.tensor([[40, 40]]).expand(64, 2)
    params = sample_params(config, source, generator=torch.Generator().manual_seed(0))
    crops = torch.rand(64, 3, 16, 16)
    images, color_diff = apply_params(crops, params, config)
    [stops] = describe(params, color_diff, DescriptorLayout(("gain",)), config).T
    assert 20 < (stops != 0).sum() < 44
    assert 1.5 < stops.abs().max() < 2
    statistics = torch.tensor([config.mean, config.std]).view(2, 3, 1, 1)
    expected = (crops * 2 ** stops.view(-1, 1, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(images * statistics[1] + statistics[0], expected)
    views = DescribedViews(config=config, descriptors=("crop", "gain"))
    _, omegas = views(make_image())
    assert [omega.shape for omega in omegas] == [(5,), (5,)]


def test_from_training_to_results(
    gain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = folder_of_classes(tmp_path / "photos", 50)
    monkeypatch.chdir(tmp_path)
    exec(compile(SMALL, str(DOC), "exec"), {"Gain": gain.Gain})
    settings = json.loads((tmp_path / "RUN/config.json").read_text("utf-8"))
    assert settings["augment"]["gain"] == {"p": 0.5, "stops": 2}

    model = export_run(tmp_path / "RUN", tmp_path / "model")
    config = json.loads((model / CONFIG_FILE).read_text("utf-8"))["cassle_zoo"]
    assert config["descriptors"][-1] == {"name": "gain", "width": 1}
    assert config["projector"]["columns"] == {"gain": list(gain.Gain.columns)}
    assert f"| 9 | `gain` | {gain.Gain.columns[0]} |" in (model / "README.md").read_text("utf-8")

    context = EvalContext(
        open_source(f"local-dir:{model}"), open_data("folder", photos), Compute(no_cache=True)
    )
    outcome = Equivariance(candidates=5, figures=False, extra=("gain",)).evaluate(context)
    assert set(outcome.metrics["gain"]) == {"r2_single", "r2_pair"}
    assert set(outcome.metrics["omega"]) == {"omega_top1", "omega_mrr"}
    assert "also Gain(p=0.5, stops=2)" in outcome.protocol["equivariance"]  # as it was trained
    found = Sensitivity(images=8, augmentations=("crop", "gain"), figures=False).evaluate(context)
    assert found.metrics["gain"]["infonce_backbone"] > found.metrics["original"]["infonce_backbone"]


def test_models_load_without_the_augmentation(
    gain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of_classes(tmp_path / "photos", 50)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"Gain": gain.Gain}
    exec(compile(SMALL, str(DOC), "exec"), namespace)
    del base._registered["gain"]
    name = f"local-dir:{export_run(tmp_path / 'RUN', tmp_path / 'model')}"
    images, omega = torch.rand(2, 3, 64, 64), torch.rand(2, 10)
    backbone = cassle_zoo.create_model(name, pretrained=True).eval()
    features = timm.create_model(name, pretrained=True).eval()(images)
    torch.testing.assert_close(backbone(images), features)
    projector = cassle_zoo.create_projector(name, pretrained=True).eval()
    assert projector.layout.slices()["gain"] == slice(9, 10)
    assert projector(features, omega).shape == (2, 128)
    projector.save_pretrained(tmp_path / "alone")
    alone = cassle_zoo.ConditionedProjector.from_pretrained(str(tmp_path / "alone")).eval()
    torch.testing.assert_close(alone(features, omega), projector(features, omega))

    source = open_source(name)
    data = open_data("folder", tmp_path / "photos")
    context = EvalContext(source, data, Compute(no_cache=True))
    # Views without it have zeros there.
    assert "omega" in Equivariance(candidates=5, figures=False).evaluate(context).metrics
    with pytest.raises(UnknownNameError, match=r"'gain'.*must be registered"):
        Equivariance(candidates=5, extra=("gain",), figures=False).evaluate(context)
    with pytest.raises(UnknownNameError, match=r"Unknown descriptor 'gain'.*must be registered"):
        DescriptorLayout(("gain",))
    plain = TrainConfig(name="any", arch="test_resnet", augment=AugmentConfig(size=64))
    with pytest.raises(ConfigError, match=r"augment.gain.p: 0.5 there, None now"):
        check_same_run(plain, tmp_path / "RUN")

    path = tmp_path / "model" / CONFIG_FILE
    config = json.loads(path.read_text("utf-8"))
    for columns, message in [
        ({}, "'gain' of width 1 is unknown"),
        ({"gain": ["one", "two"]}, "'gain' of width 1 is unknown"),
        ({"gain": 3}, r"projector\.columns must be lists of texts"),
    ]:
        config["cassle_zoo"]["projector"]["columns"] = columns
        path.write_text(json.dumps(config), "utf-8")
        with pytest.raises(ModelFolderError, match=message):
            cassle_zoo.create_model(name)


def test_an_augmentation_that_changed_its_width_is_refused(gain: Any) -> None:
    columns = {"gain": ("one", "two")}
    layout = ProjectorConfig(in_features=8, descriptors=("gain",), columns=columns).layout
    made = AugmentConfig(extra=(gain.Gain(),)).layout
    with pytest.raises(ConfigError, match="'gain' has 2 numbers in a model and 1 in"):
        layout.select(torch.zeros(3, made.width), made)


@pytest.mark.usefixtures("gain")
def test_command_line() -> None:
    argv = [RECIPE, "--augment.gain.p", "0.5", "--augment.gain.stops=2", "--augment.size", "32"]
    config = parse([*argv, "--conditioning.descriptors", "crop", "gain"]).config
    assert [(one.name, one.to_dict()) for one in config.augment.extra] == [
        ("gain", {"p": 0.5, "stops": 2})
    ]
    assert (config.augment.size, config.conditioning.descriptors) == (32, ("crop", "gain"))
    assert parse([RECIPE, "--augment.gain.stops", "2"]).config == parse([RECIPE]).config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--augment.gian.p 1", r"Unknown augmentation 'gian'. Did you mean 'gain'.*registered"),
        ("--conditioning.descriptors crop spin", r"Unknown descriptor 'spin'.*registered"),
    ],
)
@pytest.mark.usefixtures("gain")
def test_command_line_refuses(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        parse([RECIPE, *words.split()])
    except CassleZooError as error:
        found = str(error)
    except SystemExit:  # tyro puts errors of a group of settings into a box
        found = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert re.search(message, found)


def test_a_run_that_is_conditioned_on_nothing_is_refused() -> None:
    argv = [RECIPE, "--conditioning.descriptors", "crop", "vertical_flip", "--arch", "test_resnet"]
    build_method(parse([*argv, "--augment.vertical-flip.p", "0.1"]).config)
    with pytest.raises(ConfigError, match=r"has vertical_flip.*pass --augment.vertical-flip.p 0.5"):
        build_method(parse(argv).config)


def complete(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "name": "mine",
        "columns": ("one",),
        "apply": lambda self, images, parameters: images,
        "describe": lambda self, parameters: parameters,
    }
    return dataclass(frozen=True, kw_only=True)(
        type("Mine", (Augmentation,), {"__module__": __name__, **fields, **changes})
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "My Own"}, "lower-case letters, digits and '_', got 'My Own'"),
        ({"columns": ()}, "columns must say what each number of omega means"),
        ({"columns": "one"}, "columns must say"),
        ({"parameters": -1}, "parameters must be 0 or more, got -1"),
        ({"after": "mixup"}, "after must be one of flip, jitter, grayscale, blur, got 'mixup'"),
        ({"apply": Augmentation.apply, "describe": Augmentation.describe}, "no apply and no descr"),
        ({"__annotations__": {"stops": float}}, "give every setting a default; stops has none"),
        ({"name": "rotation"}, "further.Rotation has the name 'rotation' already"),
    ],
)
@pytest.mark.usefixtures("_registry")
def test_incomplete_augmentations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        register_augmentation(complete(**changes))


@pytest.mark.usefixtures("_registry")
def test_only_augmentations_are_registered() -> None:
    other: Any = dict
    with pytest.raises(ConfigError, match=r"<class 'dict'> is not a subclass of cassle_zoo\."):
        register_augmentation(other)


@pytest.mark.usefixtures("_registry")
def test_the_cell_of_a_notebook_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # it has no file
    first, second = (register_augmentation(complete(__module__="__main__")) for _ in range(2))
    assert first is not second
    assert base.registered()["mine"] is second


@pytest.mark.usefixtures("_registry")
def test_what_augmentations_return_is_checked() -> None:
    class Loose(Augmentation):
        name: ClassVar[str] = "loose"
        columns: ClassVar[tuple[str, ...]] = ("one",)

    with pytest.raises(ConfigError, match="frozen=True"):
        register_augmentation(Loose)
    source, crops = torch.tensor([[9, 9]]).expand(2, 2), torch.rand(2, 3, 8, 8)
    with pytest.raises(ConfigError, match="Mine in extra is not registered"):
        AugmentConfig(extra=(complete()(),))

    def run(**changes: Any) -> Tensor:
        cls = register_augmentation(complete(**changes))
        config = AugmentConfig(size=8, extra=(cls(p=1),))
        params = sample_params(config, source, generator=torch.Generator())
        _, color_diff = apply_params(crops, params, config)
        return describe(params, color_diff, config.layout, config)

    with pytest.raises(ConfigError, match=r"'mine' describes views by \(2, 0\).*\(2, 1\)"):
        run()
    with pytest.raises(ConfigError, match=r"'mine' made \(2, 1, 8, 8\) of \(2, 3, 8, 8\)"):
        run(apply=lambda self, images, parameters: images[:, :1])
    with pytest.raises(ConfigError, match=r"'mine': sample returned \(2, 0\), expected \(2, 2\)"):
        run(parameters=2, sample=lambda self, uniforms: uniforms[:, :0])
    with pytest.raises(ConfigError, match="the parameters have 0 numbers of further augm"):
        config = AugmentConfig(size=8, extra=(register_augmentation(complete())(p=1),))
        plain = sample_params(AugmentConfig(size=8), source, generator=torch.Generator())
        apply_params(crops, plain, config)
    with pytest.raises(ConfigError, match="has the name 'size', which the recipe's settings"):
        AugmentConfig(extra=(register_augmentation(complete(name="size"))(),))


def installed(site: Path, value: str = "gain:Gain") -> dict[str, str]:
    """Install the document's file as a package; return the environment that sees it."""
    (site / "gain-1.0.dist-info").mkdir(parents=True)
    (site / "gain.py").write_text(FILE, "utf-8")
    (site / "gain-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: gain\n")
    (site / "gain-1.0.dist-info" / "entry_points.txt").write_text(
        f"[{registry.ENTRY_POINTS}]\ngain = {value}\n"
    )
    path = os.pathsep.join([str(site), str(DOC.parent.parent)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_installed_packages_reach_commands_and_their_workers(tmp_path: Path) -> None:
    photos = folder_of_classes(tmp_path / "photos", 50)
    train = [
        "train", RECIPE, "--arch", "test_resnet", "--data.dataset", "",
        "--data", str(photos), "--out", str(tmp_path / "run"), "--data.workers", "2",
        "--optim.batch-size", "8", "--optim.epochs", "1", "--augment.gain.p", "0.5",
        "--conditioning.descriptors", "crop", "gain", "--run.device", "cpu",
    ]  # fmt: skip
    # Spawned workers import everything anew.
    start = (
        "import multiprocessing, sys; from cassle_zoo.cli.main import main\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn'); sys.exit(main(sys.argv[1:]))\n"
    )
    script = tmp_path / "start.py"
    script.write_text(start)

    def command(argv: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(script), *argv]
        return subprocess.run(words, env=env, capture_output=True, text=True, check=False)

    env = installed(tmp_path / "site")
    done = command(train, env)
    assert done.returncode == 0, done.stderr
    model = tmp_path / "model"
    assert command(["hub", "export", str(tmp_path / "run"), "-o", str(model)], env).returncode == 0
    measured = command(
        ["eval", "equivariance", f"local-dir:{model}", "--data", str(photos), "--dataset",
         "folder", "--candidates", "5", "--no-figures", "--no-cache", "--extra", "gain"], env,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    assert "gain" in measured.stdout
    without = {**env, "PYTHONPATH": str(DOC.parent.parent)}
    assert "Unknown augmentation 'gain'" in command(train, without).stderr
    for name, reason in (("Loss", "no attribute 'Loss'"), ("Range", "is not a subclass")):
        broken = command(train, installed(tmp_path / name, f"gain:{name}")).stderr
        assert f"the augmentation 'gain' of gain (gain:{name}) cannot be loaded" in broken
        assert reason in broken
