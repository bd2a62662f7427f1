import errno

import pytest
import torch

from cassle_zoo.eval.feature_cache import FeatureCache, default_folder

KEY = ("weights", "data", "transform")


def never():
    raise AssertionError("extracted again")


def test_features_are_extracted_once(tmp_path):
    features = torch.randn(5, 3)
    cache = FeatureCache(tmp_path / "new")
    assert torch.equal(cache.get(KEY, lambda: features), features)
    assert torch.equal(cache.get(KEY, never), features)
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("position", range(3))
def test_every_part_of_the_key_counts(tmp_path, position):
    other = [*KEY]
    other[position] = "other"
    cache = FeatureCache(tmp_path)
    cache.get(KEY, lambda: torch.zeros(1, 1))
    assert cache.get(other, lambda: torch.ones(1, 1)).item() == 1


def test_a_damaged_file_is_replaced(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.get(KEY, lambda: torch.zeros(2, 2))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert cache.get(KEY, lambda: torch.ones(2, 2)).sum() == 4
    assert cache.get(KEY, never).sum() == 4


def test_a_full_disk_loses_no_features(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.warns(UserWarning, match=r"not kept in .*: No space left on device"):
        assert FeatureCache(tmp_path).get(KEY, lambda: torch.ones(2, 2)).sum() == 4
    assert not list(tmp_path.iterdir())


def test_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CASSLE_ZOO_CACHE", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"
    monkeypatch.delenv("CASSLE_ZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "cassle_zoo" / "features"
