import warnings

import pytest
import torch
from torch import nn

from cassle_zoo.errors import DataError
from cassle_zoo.eval.emoji64 import Emoji64
from cassle_zoo.eval.results import Result
from cassle_zoo.eval.run import evaluate_emoji64


@pytest.fixture(scope="module")
def pixels(emoji_tar):
    return evaluate_emoji64("raw-pixels", emoji_tar, progress=False)


def test_result_is_complete(pixels, emoji_tar):
    assert Result.from_json(pixels.to_json()) == pixels
    assert set(pixels.metrics) == {"subcategory", "skin_tone", "vendor", "flags", "identity"}
    for task in ("subcategory", "skin_tone", "vendor"):
        names = {"linear_top1", "linear_mean_per_class", "knn_top1"}
        assert set(pixels.metrics[task]) == names
    assert set(pixels.metrics["flags"]) == {"recall@1"}
    assert all(0 <= v <= 1 for own in pixels.metrics.values() for v in own.values())
    assert pixels.data == {"name": "emoji64 (modified)", "sha256": Emoji64.open(emoji_tar).sha256}
    assert pixels.command == "cassle-zoo eval emoji64 raw-pixels --data emoji64.tar --seed 0"
    assert pixels.protocol["input"] == "3x64x64, fp32"


def test_no_path_is_recorded(pixels, emoji_tar):
    assert str(emoji_tar.parent) not in pixels.to_json()


def test_batch_size_form_and_repetition_do_not_matter(pixels, emoji_folder):
    again = evaluate_emoji64("raw-pixels", emoji_folder, batch_size=7, num_workers=2)
    assert again.metrics == pixels.metrics
    assert again.data == pixels.data


class Label(nn.Module):
    """Returns what it was told to, whatever the picture: the label of every picture."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.position = 0

    def forward(self, images):
        start, self.position = self.position, self.position + len(images)
        return self.features[start : self.position]


def test_perfect_features_are_perfect(emoji_tar):
    data = Emoji64.open(emoji_tar)
    columns = []
    for field in ("subcategory", "skin_tone", "vendor", "unified"):
        values = [getattr(record, field) for record in data.records]
        names = sorted(set(values))
        columns.append(torch.eye(len(names))[[names.index(value) for value in values]])
    # Labels count most, so that the probe does not learn pictures by heart.
    features = torch.cat([*(10 * column for column in columns[:3]), columns[3]], dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_emoji64(Label(features), data, transform=to_tensor, progress=False)
    assert result.metrics["flags"] == result.metrics["identity"] == {"recall@1": 1.0}
    for task in ("subcategory", "skin_tone", "vendor"):
        assert result.metrics[task]["linear_top1"] == 1.0
        assert result.metrics[task]["linear_mean_per_class"] == 1.0


def test_constant_features_are_at_chance(emoji_tar):
    data = Emoji64.open(emoji_tar)
    features = torch.ones(len(data), 4)
    result = evaluate_emoji64(
        Label(features), data, name="constant", transform=to_tensor, progress=False
    )
    assert result.metrics["vendor"]["linear_mean_per_class"] == pytest.approx(1 / 3)
    assert result.metrics["flags"]["recall@1"] < 0.2
    assert result.model["name"] == "constant"
    assert "evaluate_emoji64(constant, 'emoji64.tar', seed=0)" in result.command


def test_nan_features(emoji_tar):
    data = Emoji64.open(emoji_tar)
    model = Label(torch.full((len(data), 4), float("nan")))
    with pytest.raises(DataError, match="NaN"):
        evaluate_emoji64(model, data, transform=to_tensor, progress=False)


def to_tensor(image):
    return torch.zeros(3, 1, 1)
