"""`cassle-zoo upgrade` on files of 0.1.0, which are in the folder `format_1`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.study.records import Record
from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import DataError, ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.reference import recorded_hashes
from cassle_zoo.hub.upgrade import upgrade
from cassle_zoo.records import Result, RunExport
from cassle_zoo.store.folder import read_config

OLD = Path(__file__).parent / "format_1"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The files of 0.1.0, with a reference that has the right hash of config.json."""
    folder = Path(shutil.copytree(OLD, tmp_path / "old"))
    header = {"sha256": json.dumps({"config.json": sha256(folder / "model" / "config.json")})}
    reference = folder / "model" / "reference.safetensors"
    save_file({"features": torch.arange(6.0)}, reference, header)
    return folder


@pytest.mark.parametrize(
    ("name", "committed"),
    [
        ("result.json", "eval/results/raw-pixels.json"),
        ("record.json", "benchmarks/study/records/resnet18_simclr-lr0_12-wd0_0001-seed0.json"),
        ("model/config.json", "tests/hub/format_2_config.json"),
    ],
)
def test_what_it_makes_of_files_of_0_1_0(old: Path, name: str, committed: str) -> None:
    assert upgrade(old / name) == [old / name]
    assert (old / name).read_bytes() == (ROOT / committed).read_bytes()
    assert upgrade(old / name) == []


def test_old_files_are_refused_and_read_afterwards(old: Path) -> None:
    command = "`cassle-zoo upgrade "
    with pytest.raises(DataError, match=command):
        Result.load(old / "result.json")
    with pytest.raises(DataError, match=command):
        Record.load(old / "record.json")
    with pytest.raises(ModelFolderError, match=command):
        read_config(old / "model")
    with pytest.raises(ModelFolderError, match=command):
        RunExport.read(old / "run" / "final")
    assert {path.relative_to(old).as_posix() for path in upgrade(old)} == {
        *("result.json", "record.json", "model/config.json"),
        *("run/config.json", "run/final/export.json"),
    }
    assert Result.load(old / "result.json").model.name == "raw-pixels"
    assert Record.load(old / "record.json").settings["conditioning"]["mode"] == "none"
    assert read_config(old / "model")["cassle_zoo"]["training"]["config"]["data"] == {
        **{"dataset": "emoji64", "max_bad_fraction": 0.05, "root": "emoji64.tar"},
        **{"samples": None, "split": "train", "workers": 1},
    }
    training = RunExport.read(old / "run" / "final").training
    assert training["config"]["conditioning"]["mode"] == "add"
    assert " --conditioning.mode add --data.max-bad-fraction 0.1 " in training["command"]
    settings = json.loads((old / "run" / "config.json").read_text())
    assert "max_bad_fraction" in settings["data"]
    assert "images" in settings and "pictures" not in settings


def test_the_reference_of_a_model_folder_gets_the_new_hash_and_keeps_its_tensors(
    old: Path,
) -> None:
    before = load_file(old / "model" / "reference.safetensors")
    upgrade(old / "model")
    assert recorded_hashes(old / "model") == {"config.json": sha256(old / "model" / "config.json")}
    after = load_file(old / "model" / "reference.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_wrong_hash_stays_wrong(old: Path) -> None:
    config = old / "model" / "config.json"
    config.write_text(config.read_text().replace("1.0.31", "1.0.32"))
    before = recorded_hashes(old / "model")
    upgrade(old / "model")
    assert recorded_hashes(old / "model") == before


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "torn.json").write_text("{")
    assert upgrade(tmp_path) == []
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match="not written by cassle-zoo"):
            upgrade(path)
    with pytest.raises(DataError, match="does not exist"):
        upgrade(tmp_path / "absent")
    newer = tmp_path / "newer.json"
    newer.write_text(
        json.dumps({**json.loads((OLD / "result.json").read_text()), "format_version": 3})
    )
    assert upgrade(newer) == []
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"arm": "a", "settings": {}, "results": {"knn": 1}}')
    with pytest.raises(DataError, match=r"damaged\.json is damaged"):
        upgrade(damaged)


def test_recorded_commands_get_the_options_of_today(old: Path) -> None:
    content = json.loads((old / "result.json").read_text())
    options = "--pictures 64 --weight 2 --weight-decay 1"
    content["command"] = f"cassle-zoo eval few-shot m --data x {options}"
    (old / "result.json").write_text(json.dumps(content))
    upgrade(old / "result.json")
    command = Result.load(old / "result.json").command
    assert command.endswith("--data x --images 64 --l2 2 --weight-decay 1")


def test_the_command(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", str(old / "result.json"), str(old / "result.json")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [str(old / "result.json"), f"nothing to rewrite in {old / 'result.json'}"]


def test_an_upgrade_that_was_cut_short_goes_on(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, content: bytes) -> None:
        if path.name == "config.json":
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    folder = old / "model"
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("cassle_zoo.hub.upgrade.write_bytes", full_disk)
        upgrade(folder)
    assert upgrade(folder) == [folder / "config.json"]
    assert recorded_hashes(folder)["config.json"] == sha256(folder / "config.json")


def test_a_damaged_file_does_not_stop_the_others(old: Path) -> None:
    (old / "a.json").write_text(json.dumps({"task": 1, "protocol": 1, "metrics": 1, "command": 1}))
    result = json.loads((old / "result.json").read_text())
    (old / "b.json").write_text(json.dumps({**result, "protocol": {"x": "\ud800 picture"}}))
    with pytest.raises(DataError, match=r"a\.json.*b\.json"):
        upgrade(old)
    assert Result.load(old / "result.json").model.name == "raw-pixels"


def test_links_are_refused(old: Path) -> None:
    link = old / "link.json"
    link.symlink_to(old / "result.json")
    with pytest.raises(DataError, match="hub pull"):
        upgrade(link)
    assert link.is_symlink()


def test_names_of_files_in_a_protocol_stay(old: Path) -> None:
    result = json.loads((old / "result.json").read_text())
    protocol = {"splits": "the folder pictures/train, a picture each", "known labels": "x"}
    (old / "result.json").write_text(json.dumps({**result, "protocol": protocol}))
    upgrade(old / "result.json")
    assert Result.load(old / "result.json").protocol["splits"] == (
        "the folder pictures/train, an image each"
    )
