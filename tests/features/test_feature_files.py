import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.features import files as feature_files
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.features.files import check_feature_path, load_features, save_features
from cassle_zoo.features.inputs import Skipped

endings = pytest.mark.parametrize("ending", [".safetensors", ".npz", ".csv", ".parquet"])

NAMES = ["a.png", 'odd, "name"\nüber 🙂.png', "=1+1", "b" * 300]


def example(count: int = 4) -> FeatureSet:
    features = torch.randn(count, 7, generator=torch.Generator().manual_seed(0)) * 1e-3
    return FeatureSet(features, NAMES[:count], [Skipped("bad.png", "the file is empty")])


@endings
@pytest.mark.parametrize("count", [4, 1, 0])
def test_round_trip_is_exact(tmp_path: Path, ending: str, count: int) -> None:
    path = tmp_path / f"out{ending}"
    saved = example(count)
    save_features(saved, path)
    loaded = load_features(path)
    assert torch.equal(loaded.features, saved.features)
    assert loaded.features.dtype == torch.float32
    assert loaded.sources == saved.sources
    assert loaded.skipped == ([] if ending == ".csv" else saved.skipped)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("first", ["tokens", "pooled"])
def test_maps_are_read_back(tmp_path: Path, first: str) -> None:
    outputs = {"tokens": torch.rand(4, 3, 2, 2), "pooled": torch.rand(4, 3)}
    saved = FeatureSet(outputs[first], NAMES, [], outputs)
    save_features(saved, tmp_path / "out.safetensors")
    loaded = load_features(tmp_path / "out.safetensors")
    assert torch.equal(loaded.features, outputs[first])
    assert all(torch.equal(loaded.outputs[name], values) for name, values in outputs.items())


@endings
@pytest.mark.parametrize("output", ["pooled", "features", None])
def test_replaced_features_are_saved(tmp_path: Path, ending: str, output: str | None) -> None:
    found = example()
    found = replace(found, outputs={output: found.features} if output else {})
    scaled = replace(found, features=2 * found.features)
    save_features(scaled, tmp_path / f"out{ending}")
    assert torch.equal(load_features(tmp_path / f"out{ending}").features, scaled.features)
    with pytest.raises(ConfigError, match=r"'features' is \(3, 7\); expected \(4, \.\.\.\)"):
        save_features(replace(found, features=found.features[:3]), tmp_path / f"no{ending}")


ODD = [os.fsdecode(b"/caf\xe9 %41.png"), "caf\u00e9 \ufffd%41.png", "file:%41.png", "a.png"]


@endings
def test_names_that_are_not_valid_text(tmp_path: Path, ending: str) -> None:
    save_features(FeatureSet(torch.ones(4, 2), ODD), tmp_path / f"out{ending}")
    assert load_features(tmp_path / f"out{ending}").sources == ODD


def test_csv_is_valid_text(tmp_path: Path) -> None:
    save_features(FeatureSet(torch.ones(4, 1), ODD), tmp_path / "out.csv")
    text = (tmp_path / "out.csv").read_text(encoding="utf-8")
    assert text.split()[1:3] == ["file:/caf%E9%20%2541.png,1", "caf\u00e9"]


def test_others_can_read_the_files(tmp_path: Path) -> None:
    saved = example(2)
    for ending in (".safetensors", ".NPZ", ".csv"):
        save_features(saved, tmp_path / f"out{ending}")
    tensors = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert torch.equal(tensors["features"], saved.features)
    with np.load(tmp_path / "out.NPZ", allow_pickle=False) as arrays:
        assert arrays["sources"].tolist() == saved.sources
    text = (tmp_path / "out.csv").read_text()
    assert text.startswith("source,f0,f1,f2,f3,f4,f5,f6\n")


def test_folders_are_made_and_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "out.npz"
    save_features(example(4), path)
    save_features(example(2), path)
    assert len(load_features(path)) == 2


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".csv"])
def test_file_has_usual_permissions(tmp_path: Path, ending: str) -> None:
    old = os.umask(0o022)
    try:
        save_features(example(), tmp_path / f"out{ending}")
    finally:
        os.umask(old)
    assert (tmp_path / f"out{ending}").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".csv"])
def test_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = tmp_path / f"out{ending}"
    save_features(example(4), path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        save_features(example(2), path)
    assert len(load_features(path)) == 4
    assert os.listdir(tmp_path) == [path.name]


def test_unknown_ending_names_the_allowed(tmp_path: Path) -> None:
    for call in (check_feature_path, load_features, lambda path: save_features(example(), path)):
        with pytest.raises(
            ConfigError, match=r"'\.pkl'; files of features have \.safetensors, \.npz"
        ):
            call(tmp_path / "out.pkl")


def test_folder_as_path(tmp_path: Path) -> None:
    (tmp_path / "out.npz").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        check_feature_path(tmp_path / "out.npz")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "cassle-zoo\[parquet\]"'):
        check_feature_path(tmp_path / "out.parquet")
    with pytest.raises(MissingDependencyError):
        load_features(tmp_path / "out.parquet")


def test_too_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "_MAX_METADATA", 100)
    with pytest.raises(DataError, match=r"\.npz or \.parquet"):
        save_features(example(), tmp_path / "out.safetensors")
    assert os.listdir(tmp_path) == []


def test_names_are_counted_as_the_header_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{40 * chr(0x4E2D)}{number}.png" for number in range(100)]
    path = tmp_path / "out.safetensors"
    save_features(FeatureSet(torch.ones(100, 1), names), path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    monkeypatch.setattr(feature_files, "_FOR_REASONS", 0, raising=False)
    monkeypatch.setattr(feature_files, "_MAX_METADATA", header - 300)
    with pytest.raises(DataError, match=r"\.npz or \.parquet"):
        check_feature_path(path, names)


@pytest.mark.parametrize("ending", [".csv", ".npz", ".safetensors"])
def test_a_pipe_is_written_to(tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / f"pipe{ending}")
    pipe = os.open(tmp_path / f"pipe{ending}", os.O_RDWR)
    try:
        save_features(example(), tmp_path / f"pipe{ending}")
        (tmp_path / f"file{ending}").write_bytes(os.read(pipe, 2**16))
    finally:
        os.close(pipe)
    assert torch.equal(load_features(tmp_path / f"file{ending}").features, example().features)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder '.*absent'"):
        load_features(tmp_path / "absent")


@endings
def test_missing_or_foreign_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"in{ending}"
    with pytest.raises(DataError, match="no file"):
        load_features(path)
    path.write_bytes(b"source,f1\n")
    with pytest.raises(DataError, match="is not a file of features"):
        load_features(path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "in.npz", features=np.ones((1, 2)), sources=objects, skipped=objects)
    with pytest.raises(DataError, match="allow_pickle"):
        load_features(tmp_path / "in.npz")


def test_names_and_rows_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'features' is \(3, 2\); expected \(1, \.\.\.\)"):
        save_features(FeatureSet(torch.ones(3, 2), ["a"]), tmp_path / "out.npz")
    assert not os.listdir(tmp_path)
    names = np.array(["a"])
    np.savez(tmp_path / "in.npz", features=np.ones((3, 2), "f4"), sources=names, skipped=[])
    with pytest.raises(DataError, match=r"expected \(1, \.\.\.\).*'sources'\. Write"):
        load_features(tmp_path / "in.npz")


@endings
def test_bfloat16_is_saved(tmp_path: Path, ending: str) -> None:
    features = example().features.bfloat16()
    save_features(FeatureSet(features, NAMES), tmp_path / f"out{ending}")
    assert torch.equal(load_features(tmp_path / f"out{ending}").features.float(), features.float())


def test_complex_numbers_are_not_features(tmp_path: Path) -> None:
    names = np.array(["a"])
    np.savez(tmp_path / "in.npz", features=np.ones((1, 2), "c8"), sources=names, skipped=[])
    with pytest.raises(DataError, match="complex64"):
        load_features(tmp_path / "in.npz")


def test_names_are_one_text_each(tmp_path: Path) -> None:
    names = np.array([["a", "b"]])
    np.savez(tmp_path / "in.npz", features=np.ones((1, 2), "f4"), sources=names, skipped=[])
    with pytest.raises(DataError, match="not a list of texts"):
        load_features(tmp_path / "in.npz")
