import errno

import pytest
import torch

from cassle_zoo.common.errors import ConfigError, DataError
from cassle_zoo.eval.feature_cache import cache_folder, cached_features, features_of
from cassle_zoo.eval.sources import find_source
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.store.model_files import resolve

KEY = ("weights", "data", "transform")


def never():
    raise AssertionError("extracted again")


def test_features_are_extracted_once(tmp_path):
    features = torch.randn(5, 3)
    folder = tmp_path / "new"
    assert torch.equal(cached_features(folder, KEY, lambda: features), features)
    assert torch.equal(cached_features(folder, KEY, never), features)
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("position", range(3))
def test_every_part_of_the_key_counts(tmp_path, position):
    other = [*KEY]
    other[position] = "other"
    cached_features(tmp_path, KEY, lambda: torch.zeros(1, 1))
    assert cached_features(tmp_path, other, lambda: torch.ones(1, 1)).item() == 1


def test_a_damaged_file_is_replaced(tmp_path):
    cached_features(tmp_path, KEY, lambda: torch.zeros(2, 2))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert cached_features(tmp_path, KEY, lambda: torch.ones(2, 2)).sum() == 4
    assert cached_features(tmp_path, KEY, never).sum() == 4


def test_a_full_disk_loses_no_features(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.warns(UserWarning, match=r"cannot cache features in .*: No space left on device"):
        assert cached_features(tmp_path, KEY, lambda: torch.ones(2, 2)).sum() == 4
    assert not list(tmp_path.iterdir())


def test_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CASSLE_ZOO_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("CASSLE_ZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cassle_zoo" / "features"


def known(*sources):
    return FeatureSet(features=torch.arange(2.0 * len(sources)).reshape(-1, 2), sources=sources)


def test_images_are_found_below_one_folder_in_any_order():
    names = ("c/1.png", "a/b/1.png")
    found, _ = features_of(known("/x/a/b/1.png", "/x/c/1.png", "/x/other/2.png"), names, 2)
    assert found.tolist() == [[2, 3], [0, 1]]
    found, _ = features_of(known("a/b/1.png", "c/1.png"), names, 2)
    assert found.tolist() == [[2, 3], [0, 1]]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (("/x/c/1.png", "/x/c/1.png"), "two images '/x/c/1.png'"),
        (("/x/c/1.png", "/y/d/1.png"), r"no features of 1 of 2 images, the first is 'd/1.png'"),
        (("/x/z/1.png",), r"no features of 2 of 2 .*'/x/z/1.png'"),
        (("/x/c/1.png", "/x/d/1.png", "/y/c/1.png", "/y/d/1.png"), "2 folders: '/x', '/y'"),
    ],
)
def test_other_images_are_refused(sources, message):
    with pytest.raises(DataError, match=message):
        features_of(known(*sources), ("c/1.png", "d/1.png"), 2)


def test_without_names_the_number_must_be_equal():
    assert features_of(known("p", "q"), (), 2)[0].shape == (2, 2)
    with pytest.raises(DataError, match="4 images, the dataset has 3"):
        features_of(known(*"abcd"), (), 3)


def test_equal_names_in_another_folder_are_other_images(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    names = ("c/1.png",)
    mine, theirs = f"{own}/c/1.png", f"{other}/c/1.png"
    assert features_of(known(mine), names, 1, own)[0].tolist() == [[0, 1]]
    assert features_of(known("/gone/c/1.png"), names, 1, own)[0].tolist() == [[0, 1]]
    assert features_of(known(theirs, mine), names, 1, own)[0].tolist() == [[2, 3]]
    with pytest.raises(DataError, match="another folder than the dataset's"):
        features_of(known(theirs), names, 1, own)


@pytest.fixture
def homeless(monkeypatch):
    """Run as a container's user that has no name and no HOME."""
    for name in ("HOME", "XDG_CACHE_HOME", "CASSLE_ZOO_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def nobody(_):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_the_option_is_named(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"no home folder.*--cache DIR.*CASSLE_ZOO_CACHE"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cassle_zoo" / "features"


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("home", ["~", "~nosuchuser"])
def test_paths_in_a_home_folder_that_is_not_there(home):
    for call in (
        lambda: resolve(f"local-dir:{home}/model"),
        lambda: find_source(f"features:{home}/f.csv"),
    ):
        with pytest.raises(ConfigError, match=f"{home}.*write the path in full"):
            call()
