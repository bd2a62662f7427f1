"""A study of small networks, one epoch each, on a tiny dataset."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from results import make_result
from tiny_study import MACHINE, small_design

from benchmarks.study import design as design_module
from benchmarks.study import photographs as photographs_module
from benchmarks.study.adapted_evaluators import VALIDATION_EVALUATORS, Validation
from benchmarks.study.design import Design
from benchmarks.study.evaluators import EVALUATORS
from benchmarks.study.metrics import COURSE
from benchmarks.study.records import Record
from benchmarks.study.runner import StudyRunner
from cassle_zoo.eval.protocols.equivariance import Equivariance
from cassle_zoo.eval.protocols.sensitivity import Sensitivity


@pytest.fixture
def design() -> Design:
    return small_design()


@pytest.fixture(scope="session", autouse=True)
def _few_images() -> Iterator[None]:
    """All evaluations, but of few images."""
    small = Sensitivity(images=16, strengths=(1.0,), figures=False)
    found = Equivariance(images=200, candidates=5, figures=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EVALUATORS, "sensitivity", small)
        patch.setitem(EVALUATORS, "equivariance", found)
        patch.setitem(VALIDATION_EVALUATORS, "validation", Validation(omega=found))
        spectrum = dataclasses.replace(EVALUATORS["spectrum"], components=(5, 40))  # type: ignore[type-var]
        patch.setitem(EVALUATORS, "spectrum", spectrum)
        for name in ("knn-whitened", "retrieval-whitened"):
            evaluator = dataclasses.replace(EVALUATORS[name], whiten=4)  # type: ignore[type-var]
            patch.setitem(EVALUATORS, name, evaluator)
        yield


@pytest.fixture(scope="session")
def finished(emoji_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRunner]:
    """A finished study: a small grid, main arms, untrained features, an ablation of two epochs."""
    runner = StudyRunner(
        output=tmp_path_factory.mktemp("study"),
        data=emoji_folder,
        design=dataclasses.replace(small_design(), snapshot_every=1),
        machine=MACHINE,
        only=("main", "untrained", "reference", "*-depth-2"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(design_module, "GRID_LR", (0.12, 0.24))
        patch.setattr(design_module, "GRID_WEIGHT_DECAY", (5e-4,))
        assert runner.run()
        yield runner


@pytest.fixture
def runner(emoji_folder: Path, design: Design, tmp_path: Path) -> StudyRunner:
    """A study without grid that has not begun."""
    design = dataclasses.replace(design, choose=False)
    return StudyRunner(output=tmp_path / "study", data=emoji_folder, design=design, machine=MACHINE)


@pytest.fixture
def record() -> Record:
    return Record(
        arm="a_simclr",
        group="main",
        against="",
        seed=0,
        settings={"name": "a_simclr.emoji64", "optim": {"base_lr": 0.1, "weight_decay": 0.0}},
        results={
            "emoji64": make_result(
                "a_simclr.emoji64", data_sha256="0", metrics={"flags": {"recall@1": 0.25}}
            )
        },
        neighbours={"flags": [[3, 1, 2]]},
        seconds={"train": 60.0, "evaluate": 30.0},
        device="cpu",
    )


@pytest.fixture
def with_course(record: Record) -> Record:
    """A record that was measured after epochs 5 and 10, at 20 and 30 % in all metrics."""
    [result] = record.results.values()
    course = {}
    for epoch, value in (("10", 0.3), ("5", 0.2)):
        metrics: dict[str, dict[str, float]] = {}
        for metric in COURSE:
            metrics.setdefault(metric.part, {})[metric.name] = value
        course[epoch] = {"validation": dataclasses.replace(result, metrics=metrics)}
    return dataclasses.replace(record, course=course)


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that carries two images in place of those that carry photographs."""
    package = tmp_path / "packages" / "carries_photographs"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    noise = torch.Generator().manual_seed(0)
    for name in ("a.png", "b.png"):
        pixels = torch.randint(256, (48, 64, 3), generator=noise, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(package / "data" / name)
    monkeypatch.syspath_prepend(package.parent)
    found = {"carries_photographs": ("data", ("*.png",))}
    monkeypatch.setattr(photographs_module, "PHOTOGRAPHS", found)
