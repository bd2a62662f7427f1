"""Exports of runs that are not finished, and of snapshots."""

import dataclasses
import shutil
import signal
from pathlib import Path

import pytest
import torch
from builders import image_folder
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from cassle_zoo.augmentation.augment import AugmentConfig
from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint, save_checkpoint
from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import ConfigError, ModelFolderError
from cassle_zoo.hub.export import export_run
from cassle_zoo.hub.publish.verify import verify_folder
from cassle_zoo.records import CHECKPOINT_FILE, PREVIOUS_CHECKPOINT_FILE
from cassle_zoo.store.folder import MODEL_FILE, read_config
from cassle_zoo.train.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cassle_zoo.train.loop import train
from cassle_zoo.train.run import faults


def settings(images: Path) -> TrainConfig:
    return TrainConfig(
        arch="test_resnet",
        augment=AugmentConfig(size=32),
        data=DataConfig(root=str(images), workers=0),
        optim=OptimConfig(epochs=4, batch_size=4),
        run=RunConfig(
            threads=1, snapshot_every=1, monitor_every=0, loggers=("csv",), precision="fp32"
        ),
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was asked to stop in its fifth of eight steps."""
    folder = tmp_path_factory.mktemp("stopped")
    config = settings(image_folder(folder / "images", [f"{i}.png" for i in range(8)]))
    with pytest.MonkeyPatch.context() as patch:
        note = faults.BadImages.note
        steps: list[int] = []

        def stop_in_the_fifth(self: faults.BadImages, bad: torch.Tensor) -> list[str]:
            steps.append(1)
            if len(steps) == 5:
                signal.raise_signal(signal.SIGTERM)
            return note(self, bad)

        patch.setattr(faults.BadImages, "note", stop_in_the_fifth)
        result = train(config, folder / "run", command="cassle-zoo train ...")
    assert (result.steps, result.finished) == (5, False)
    return folder / "run"


def test_the_weights_are_those_of_the_checkpoint(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert main(["hub", "export", str(stopped), "-o", str(out), "--dtype", "float32"]) == 0
    assert capsys.readouterr().out.splitlines() == ["unfinished: 5 of 8 steps", str(out)]
    assert all(check.passed for check in verify_folder(out))
    content = (stopped / CHECKPOINT_FILE).read_bytes().partition(b"\n")[2]
    (tmp_path / "content").write_bytes(content)
    method = torch.load(tmp_path / "content", weights_only=True)["method"]
    exported = load_file(out / MODEL_FILE)
    assert all(value.equal(method[f"backbone.{key}"]) for key, value in exported.items())
    card = ModelCard.load(out / "README.md")
    assert "**Unfinished:** these are the weights after 5 of 8 steps" in card.text
    assert read_config(out)["cassle_zoo"]["training"]["steps"] == 5


@pytest.mark.parametrize("by_folder", [False, True])
def test_snapshots(stopped: Path, tmp_path: Path, by_folder: bool) -> None:
    snapshot = stopped / "snapshots" / "0002"
    given = (snapshot, None) if by_folder else (stopped, 2)
    out = export_run(given[0], tmp_path / "model", dtype=torch.float32, epoch=given[1])
    stored = load_file(snapshot / "backbone.safetensors")
    assert all(value.equal(stored[key]) for key, value in load_file(out / MODEL_FILE).items())
    assert "after 4 of 8 steps" in ModelCard.load(out / "README.md").text


def test_what_is_not_there(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no snapshot of epoch 9; there are those of 1, 2 "):
        export_run(stopped, tmp_path / "model", epoch=9)
    with pytest.raises(ConfigError, match=r"it has none .*--run\.snapshot-every"):
        export_run(tmp_path, tmp_path / "model", epoch=9)
    older = Path(shutil.copytree(stopped, tmp_path / "older"))
    (older / "export.json").unlink()
    with pytest.raises(ModelFolderError, match=r"an older version began it.*to continue it"):
        export_run(older, tmp_path / "model")


def test_the_checkpoint_that_was_read_is_named(stopped: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    state = load_checkpoint(run)[0]
    assert state is not None
    del state["method"]["backbone.conv1.0.weight"]
    save_checkpoint(run, state)
    (run / CHECKPOINT_FILE).replace(run / PREVIOUS_CHECKPOINT_FILE)
    with pytest.raises(ModelFolderError, match=r"checkpoint\.previous\.pt does not fit"):
        export_run(run, tmp_path / "model")


def test_a_finished_run_is_not_unfinished(stopped: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    config = settings(stopped.parent / "images")
    assert train(dataclasses.replace(config), run).finished
    out = export_run(run, tmp_path / "model")
    training = read_config(out)["cassle_zoo"]["training"]
    assert (training["steps"], training.get("total_steps")) == (8, None)
    assert training["images"]["count"] == 8
    assert "Unfinished" not in ModelCard.load(out / "README.md").text
    assert training["data"] == "images (8 images)"


def test_the_average_of_the_weights_is_exported(stopped: Path, tmp_path: Path) -> None:
    config = settings(stopped.parent / "images")
    optim = dataclasses.replace(config.optim, ema_decay=0.5)
    assert train(dataclasses.replace(config, optim=optim), tmp_path / "run").finished
    final = load_file(tmp_path / "run" / "final" / "backbone.safetensors")
    shutil.rmtree(tmp_path / "run" / "final")
    out = export_run(tmp_path / "run", tmp_path / "model", dtype=torch.float32)
    assert all(value.equal(final[key]) for key, value in load_file(out / MODEL_FILE).items())
