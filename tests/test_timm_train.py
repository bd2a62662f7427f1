"""timm's scripts with our models: `python -m cassle_zoo.timm_train`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import image_folder
from timm_script import TRAIN

import cassle_zoo
from cassle_zoo.timm_train import main


def run(folder: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(cassle_zoo.__file__).parents[1]),
        "STATUS": str(status),
    }
    return subprocess.run(
        [sys.executable, "-m", "cassle_zoo.timm_train", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_fine_tuning_with_a_script_of_timms(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/train.py").write_text(TRAIN)
    (tmp_path / "scripts/helper.py").write_text("VALUE = 'beside the script'")
    image_folder(tmp_path / "photos", [f"train/{k % 2}/{k}.png" for k in range(8)])
    name = "resnet18_cassle_simclr"
    done = run(
        tmp_path, "scripts/train.py", "--model", name, "--pretrained", "--data-dir", "photos",
        "--num-classes", "2", "--output", "out", status=7,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["name"], said["argv"]) == ("__main__", ["--model", name])
    assert Path(said["file"]).name == "train.py"
    assert said["helper"] == "beside the script"
    assert (said["size"], said["mean"]) == ([3, 64, 64], [0.5, 0.5, 0.5])
    released = cassle_zoo.create_model(name, pretrained=True).state_dict()["conv1.weight"]
    assert said["sum"] == pytest.approx(released.double().sum().item(), rel=1e-12)
    # The checkpoint is loaded by name, with its classifier, as timm's validate.py does.
    tuned = cassle_zoo.create_model(
        name, num_classes=2, checkpoint_path=str(tmp_path / "out/run/last.pth.tar")
    )
    assert not tuned.state_dict()["conv1.weight"].equal(released)


def test_help_and_no_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "usage: python -m cassle_zoo.timm_train SCRIPT.py" in capsys.readouterr().out
    assert main([]) == 2
    assert "usage:" in capsys.readouterr().err
    assert main(["absent.py", "--model", "resnet18_cassle_simclr"]) == 2
    said = capsys.readouterr().err
    assert "'absent.py' is not a file" in said
    assert "huggingface/pytorch-image-models/tree/v" in said


@pytest.mark.slow
def test_errors_of_the_script_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import timm\ntimm.create_model('no_such_model')")
    done = run(tmp_path, "train.py")
    assert done.returncode == 1
    assert "no_such_model" in done.stderr
