import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from cassle_zoo.common.errors import CassleZooError, DataError
from cassle_zoo.data.emoji64 import Emoji64
from cassle_zoo.eval.base import Compute
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols.emoji64 import Emoji64Suite
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.linear_probe import LinearProbe
from cassle_zoo.eval.runner import evaluate
from cassle_zoo.eval.sources import FeatureSource
from cassle_zoo.records import Result

QUIET = Compute(no_cache=True, progress=False)


def measure(model, path, compute=QUIET):
    return evaluate("emoji64", Emoji64Suite(), model, open_data("emoji64", path), compute)[0]


@pytest.fixture(scope="module")
def pixels(emoji_tar):
    return measure("raw-pixels", emoji_tar)


def test_result_is_complete(pixels, emoji_tar):
    assert Result.from_json(pixels.to_json()) == pixels
    assert set(pixels.metrics) == {"subcategory", "skin_tone", "vendor", "flags", "identity"}
    for task in ("subcategory", "skin_tone", "vendor"):
        names = {"linear_top1", "linear_mean_per_class", "knn_top1", "knn_mean_per_class"}
        assert set(pixels.metrics[task]) == names
    assert set(pixels.metrics["flags"]) == {"recall@1", "mAP"}
    assert all(0 <= v <= 1 for own in pixels.metrics.values() for v in own.values())
    assert pixels.data.name == "emoji64 (modified)"
    assert pixels.data.sha256 == Emoji64.open(emoji_tar).sha256
    assert pixels.protocol["input"] == "3x64x64, fp32"


def test_no_path_is_recorded(pixels, emoji_tar):
    assert str(emoji_tar.parent) not in pixels.to_json()


def test_batch_size_form_and_repetition_do_not_matter(pixels, emoji_folder):
    again = measure("raw-pixels", emoji_folder, Compute(batch_size=7, workers=2, no_cache=True))
    assert again.metrics == pixels.metrics
    assert again.data == pixels.data


@pytest.mark.parametrize("whiten", [Path("absent"), 10**6])
def test_a_whitening_that_does_not_fit_is_no_loss_of_time(emoji_tar, monkeypatch, whiten):
    monkeypatch.setattr(LinearProbe, "evaluate", lambda *_: pytest.fail("this takes long"))
    data = open_data("emoji64", emoji_tar)
    with pytest.raises(CassleZooError, match=r"no whitening absent|expected 1 to 768"):
        evaluate("emoji64", Emoji64Suite(knn=KNN(whiten=whiten)), "raw-pixels", data, QUIET)


class Label(nn.Module):
    """Returns given features, for any images: the label of every image."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.position = 0

    def forward(self, images):
        start, self.position = self.position, self.position + len(images)
        return self.features[start : self.position]


def source(features):
    return FeatureSource(name="given", sha256=None, model=Label(features), transform=to_tensor)


def test_perfect_features_are_perfect(emoji_tar):
    data = Emoji64.open(emoji_tar)
    columns = []
    for field in ("subcategory", "skin_tone", "vendor", "unified"):
        values = [getattr(record, field) for record in data.records]
        names = sorted(set(values))
        columns.append(torch.eye(len(names))[[names.index(value) for value in values]])
    # Labels count most, so that the probe does not learn images by heart.
    features = torch.cat([*(10 * column for column in columns[:3]), columns[3]], dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = measure(source(features), emoji_tar)
    assert result.metrics["flags"] == result.metrics["identity"] == {"recall@1": 1.0, "mAP": 1.0}
    for task in ("subcategory", "skin_tone", "vendor"):
        assert result.metrics[task]["linear_top1"] == 1.0
        assert result.metrics[task]["linear_mean_per_class"] == 1.0


def test_constant_features_are_at_chance(emoji_tar):
    data = Emoji64.open(emoji_tar)
    features = torch.ones(len(data), 4)
    result = measure(source(features), emoji_tar)
    assert result.metrics["vendor"]["linear_mean_per_class"] == pytest.approx(1 / 3)
    assert result.metrics["flags"]["recall@1"] < 0.2


def test_nan_features(emoji_tar):
    data = Emoji64.open(emoji_tar)
    with pytest.raises(DataError, match="NaN"):
        measure(source(torch.full((len(data), 4), float("nan"))), emoji_tar)


def to_tensor(image):
    return torch.zeros(3, 1, 1)
