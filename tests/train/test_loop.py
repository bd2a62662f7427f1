import contextlib
import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from changes import change
from safetensors.torch import load_file

from cassle_zoo.common.errors import ConfigError, NonFiniteLossError
from cassle_zoo.common.faults import locked
from cassle_zoo.records import CHECKPOINT_FILE
from cassle_zoo.train import loop
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.trainer import Trainer, build_method


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value
        for name in ("backbone", "projector")
        for key, value in load_file(run / "final" / f"{name}.safetensors").items()
    }


def assert_same_weights(left: Path, right: Path) -> None:
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


@pytest.fixture(scope="module")
def undisturbed(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that tests must not change."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert loop.train(config, out) == loop.TrainResult(steps=10, finished=True)
    return out


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """A finished run that a test may change."""
    return Path(shutil.copytree(undisturbed, tmp_path / "finished"))


def test_a_snapshot_is_the_model_of_a_run_that_ended_there(
    config: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    loop.train(change(config, "run", snapshot_every=1), out)
    snapshots = sorted(path.name for path in (out / "snapshots").iterdir())
    assert snapshots == ["0001", "0002"]
    first, last, final = (
        load_file(folder / "backbone.safetensors")
        for folder in (out / "snapshots" / "0001", out / "snapshots" / "0002", out / "final")
    )
    assert all(torch.equal(value, final[key]) for key, value in last.items())
    assert any(not torch.equal(value, final[key]) for key, value in first.items())
    export = json.loads((out / "snapshots" / "0001" / "export.json").read_text())
    assert export["training"]["steps"] == 5


def test_a_run_leaves_everything(config: TrainConfig, undisturbed: Path) -> None:
    export = json.loads((undisturbed / "final" / "export.json").read_text())
    assert export["name"] == config.name
    assert export["projector"]["conditioning"] == "cat"
    assert export["training"]["steps"] == 10
    assert export["training"]["config"]["optim"]["base_lr"] == 1.0
    assert str(undisturbed.parent) not in json.dumps(export)
    with (undisturbed / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["value"]) for row in rows if row["name"] == "loss"]
    assert len(losses) == 10
    assert [row["step"] for row in rows if row["name"] == "knn_top1"] == ["5", "10"]
    before = build_method(config).backbone.state_dict()
    after = load_file(undisturbed / "final" / "backbone.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["conv1.0.weight"], after["conv1.0.weight"])


def test_opening_the_images_is_shown(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    @contextlib.contextmanager
    def busy(what: str) -> Iterator[None]:
        said.append(what)
        yield

    monkeypatch.setattr(loop, "busy", busy)
    loop.train(change(config, "optim", epochs=1), tmp_path)
    assert said == ["opening the images"]


def test_loss_falls(config: TrainConfig, tmp_path: Path) -> None:
    config = change(config, "optim", epochs=20, batch_size=22)
    config = change(config, "run", checkpoint_every=100, monitor_every=0)
    config = change(
        config, "augment", crop_scale=(0.9, 1), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0
    )
    loop.train(config, tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        losses = [float(r["value"]) for r in csv.DictReader(file) if r["name"] == "loss"]
    assert losses[-1] < 0.6 * losses[0]


def test_same_command_twice_changes_nothing(
    config: TrainConfig, undisturbed: Path, finished: Path
) -> None:
    assert loop.train(config, finished).finished
    assert_same_weights(finished, undisturbed)


@pytest.mark.parametrize("step", [1, 3, 5, 9])
def test_crash_at_any_step_then_resume(
    config: TrainConfig, undisturbed: Path, tmp_path: Path, fault_at: Any, step: int
) -> None:
    out = tmp_path / "crashed"
    with fault_at(step), pytest.raises(KeyboardInterrupt):
        loop.train(config, out)
    torch.manual_seed(1234 + step)
    assert loop.train(change(config, "data", workers=1), out).finished
    assert_same_weights(out, undisturbed)
    left, right = ((run / "metrics.csv").read_text().splitlines() for run in (out, undisturbed))
    assert [r for r in left if "per_second" not in r] == [r for r in right if "per_second" not in r]


def test_the_seed_is_also_of_dropout(config: TrainConfig, tmp_path: Path) -> None:
    drawn = []
    for seed in (3, 3, 4):
        torch.rand(1)
        Trainer(change(config, "run", seed=seed), per_epoch=5).restore(tmp_path)
        drawn.append(torch.rand(8).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_run_removes_what_a_killed_one_was_writing(config: TrainConfig, finished: Path) -> None:
    (finished / "snapshots" / "0001").mkdir(parents=True)
    folders = (finished, finished / "final", finished / "snapshots" / "0001")
    leftovers = [folder / f".partial-{1:016x}" for folder in folders]
    for path in leftovers:
        path.write_bytes(b"half")
    (finished / f".partial-{2:016x}").mkdir()
    (finished / f".partial-{2:016x}" / "file").write_bytes(b"half")
    with locked(finished), pytest.raises(ConfigError, match="another process"):
        loop.train(config, finished)
    assert all(path.exists() for path in leftovers)
    assert loop.train(config, finished).finished
    assert not list(finished.rglob(".partial-*"))


def test_sigterm_saves_and_stops(
    config: TrainConfig, undisturbed: Path, tmp_path: Path, fault_at: Any
) -> None:
    config = change(config, "run", checkpoint_every=1000)
    out = tmp_path / "stopped"
    before = signal.getsignal(signal.SIGTERM)
    with fault_at(3, lambda: signal.raise_signal(signal.SIGTERM)):
        assert loop.train(config, out) == loop.TrainResult(steps=4, finished=False, stopped=True)
    assert (out / CHECKPOINT_FILE).exists()
    assert signal.getsignal(signal.SIGTERM) == before
    assert loop.train(config, out).finished
    assert_same_weights(out, undisturbed)


SIGNALLED = """
import os, signal, sys, time
from cassle_zoo.common.faults import stop_signals
clock = time.monotonic
for case in sys.argv[1:]:  # each in a fork: importing PyTorch takes seconds
    if not (child := os.fork()):
        later, *names = case.split()
        with stop_signals() as stop:
            for number, name in enumerate(names):
                time.monotonic = lambda: clock() + number * float(later)
                signal.raise_signal(getattr(signal, "SIG" + name))
            raise SystemExit(7 if stop.requested else 8)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_which_further_signal_acts_at_once() -> None:
    term, interrupted = -signal.SIGTERM, -signal.SIGINT
    cases = {"0 TERM TERM TERM": 7, "0 INT TERM": 7, "11 TERM TERM": term}
    cases |= {"0 INT INT": interrupted, "0 TERM INT": interrupted}
    command = [sys.executable, "-c", SIGNALLED, *cases]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert dict(zip(cases, map(int, said.split()), strict=True)) == cases


def test_non_finite_loss(config: TrainConfig, tmp_path: Path) -> None:
    config = change(config, "optim", base_lr=1e20)
    with pytest.raises(NonFiniteLossError, match="base-lr"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize("step", [4, 5], ids=["in an epoch", "at its end"])
def test_weights_that_are_not_finite_are_not_stored(
    config: TrainConfig,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    config = change(config, "run", snapshot_every=1)
    train_step = Trainer.train_step

    def diverge(self: Trainer, *args: Any) -> dict[str, float]:
        values = train_step(self, *args)
        if self.step == step:
            self.method.backbone.get_parameter("conv1.0.weight").data.fill_(torch.nan)
        return values

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", diverge)
        said = rf"step {step} made backbone\.conv1\.0\.weight NaN .* before\..*--optim\.base-lr"
        with pytest.raises(NonFiniteLossError, match=said):
            loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run/snapshots").exists()
    assert loop.train(config, tmp_path / "run").finished
    assert_same_weights(tmp_path / "run", undisturbed)


def test_an_empty_path_is_not_the_current_folder(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="out is an empty path"):
        loop.train(config, "")
    assert not list(tmp_path.iterdir())


def test_other_settings_are_refused(config: TrainConfig, finished: Path) -> None:
    other = change(config, "optim", epochs=3)
    with pytest.raises(ConfigError, match=r"optim.epochs: 2 there, 3 now"):
        loop.train(other, finished)
    seeded = change(config, "run", seed=1)
    with pytest.raises(ConfigError, match=r"run.seed"):
        loop.train(seeded, finished)


def test_a_finished_run_is_not_trained_again(
    config: TrainConfig, undisturbed: Path, finished: Path
) -> None:
    for checkpoint in finished.glob("checkpoint*.pt"):
        checkpoint.unlink()
    with pytest.raises(ConfigError, match="finished run without its checkpoints"):
        loop.train(config, finished)
    assert_same_weights(finished, undisturbed)


def test_the_seed_matters(config: TrainConfig) -> None:
    first, again, other = (
        build_method(change(config, "run", seed=seed)).backbone.state_dict()["conv1.0.weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
