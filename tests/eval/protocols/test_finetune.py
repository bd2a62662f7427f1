import dataclasses
import math
import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from cassle_zoo.common.errors import ConfigError, DataError, NonFiniteLossError, UnknownNameError
from cassle_zoo.eval.base import Compute, EvalContext, EvalData, Task
from cassle_zoo.eval.protocols.finetune import Classifier, Finetune, build_optimizer, lr_fraction
from cassle_zoo.eval.runner import evaluate, measurement
from cassle_zoo.eval.sources import open_source
from cassle_zoo.features.extract import FeatureSet
from cassle_zoo.features.files import save_features

SOURCE = "random-init:test_resnet"
QUICK = {"epochs": 2, "train_batch": 8, "lr": (0.1,), "precision": "fp32"}
COLORS = ((220, 40, 40), (40, 220, 40), (40, 40, 220))


class Plates:
    """Noisy images of one colour each: the class."""

    def __init__(self, count=36, broken=()):
        self.count = count
        self.broken = broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError("truncated")
        noise = np.random.default_rng(index).integers(-40, 40, (32, 32, 3))
        plate = np.asarray(COLORS[index % 3]) + noise
        return Image.fromarray(plate.clip(0, 255).astype(np.uint8)), index % 3


def plates(*, kind="classification", broken=(), **changes):
    images = Plates(broken=broken)
    rows = torch.arange(len(images))
    task = {
        "name": "colour",
        "kind": kind,
        "targets": rows % 3,
        "splits": {"train": rows[:18], "val": rows[18:27], "test": rows[27:]},
        "classes": ("red", "green", "blue"),
    }
    return EvalData(name="plates", sha256="0", images=images, tasks=(Task(**{**task, **changes}),))


def run(data=None, source=SOURCE, *, compute=None, **settings):
    compute = compute or Compute(progress=False)
    return evaluate(
        "finetune", Finetune(**{**QUICK, **settings}), source, data or plates(), compute
    )[0]


@pytest.mark.filterwarnings("error:Classifier")
def test_it_learns():
    result = run(epochs=6)
    assert result.metrics["colour"] == {"finetune_top1": 1.0, "finetune_mean_per_class": 1.0}
    losses = result.series["colour: loss of finetune by epoch"]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]
    assert result.protocol["labels"] == "colour 100% labels: 27 images"
    assert "precision: fp32" in result.protocol["fine-tuning"]


def test_bf16_is_close_to_fp32():
    losses = [
        run(precision=precision).series["colour: loss of finetune by epoch"]
        for precision in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.05)


def test_same_numbers_for_other_workers_and_batches_and_no_trace():
    torch.manual_seed(5)
    states = random.getstate(), torch.random.get_rng_state()
    expected = run(layer_decay=0.7, color_jitter=0.4, label_smoothing=0.1)
    again = run(
        layer_decay=0.7, color_jitter=0.4, label_smoothing=0.1,
        compute=Compute(progress=False, workers=2, batch_size=5),
    )  # fmt: skip
    assert again.series == expected.series
    assert again.metrics == expected.metrics
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])
    other = run(
        layer_decay=0.7, color_jitter=0.4, label_smoothing=0.1,
        compute=Compute(progress=False, seed=1),
    )  # fmt: skip
    assert other.series != expected.series


def test_the_model_is_not_changed():
    source = open_source(SOURCE)
    before = {key: value.clone() for key, value in source.model.state_dict().items()}
    run(source=source)
    assert all(torch.equal(before[key], value) for key, value in source.model.state_dict().items())


def test_learning_rate_is_chosen_on_validation():
    result = run(lr=(0.1, 1e-9), epochs=4)
    assert result.protocol["chosen lr"] == "colour 100% labels: 0.1"
    # What was found does not make it another measurement.
    other = {**result.protocol, "chosen lr": "colour 100% labels: 1e-09"}
    assert measurement(dataclasses.replace(result, protocol=other)) == measurement(result)
    assert "lr: (0.1, 1e-09)" in result.protocol["fine-tuning"]
    assert "lr by top-1 on validation" in result.protocol["final fit"]


def test_another_learning_rate_is_another_measurement():
    first, second = (run(lr=(lr,), epochs=1) for lr in (0.1, 0.05))
    assert measurement(first) != measurement(second)


def test_few_labels():
    result = run(labels=(0.01, 1.0), epochs=1)
    names = {"finetune_1%_top1", "finetune_1%_mean_per_class", "finetune_top1"}
    assert names < set(result.metrics["colour"])
    # One of each of three classes, of training and validation each.
    assert "colour 1% labels: 6 images" in result.protocol["labels"]
    assert "a fraction of each class" in result.protocol["final fit"]


def test_a_model_with_a_classifier_and_no_configuration():
    class Net(nn.Module):
        num_classes = 7

        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 8, 8)
            self.fc = nn.Linear(4, 7)

        def forward_features(self, images):
            return self.stem(images)

        def forward_head(self, features, pre_logits=False):
            pooled = features.mean((2, 3))
            return pooled if pre_logits else self.fc(pooled)

        def forward(self, images):
            return self.forward_head(self.forward_features(images))

        def reset_classifier(self, num_classes):
            self.fc = nn.Identity() if num_classes == 0 else nn.Linear(4, num_classes)

    assert set(run(source=Net()).metrics["colour"]) == {"finetune_top1", "finetune_mean_per_class"}
    with pytest.raises(ConfigError, match="does not name its layers"):
        run(source=Net(), layer_decay=0.7)


def test_diverging_is_an_error():
    with pytest.raises(NonFiniteLossError, match=r"lr 1e\+30"):
        run(lr=(1e30,), epochs=4)


def test_wrong_data(tmp_path):
    with pytest.raises(DataError, match="no task of the kind classification"):
        run(plates(kind="retrieval"))
    with pytest.raises(UnknownNameError, match=r"shape.*colour"):
        run(tasks=("shape",))
    with pytest.raises(DataError, match=r"without a train \+ val image: violet"):
        run(plates(classes=("red", "green", "blue", "violet")))
    with pytest.raises(DataError, match=r"labels are in \[0, 2\], expected \[0, 1\]"):
        run(plates(classes=("red", "green")))
    with pytest.raises(DataError, match="at least two"):
        run(plates(classes=("red",), targets=torch.zeros(36, dtype=torch.long)))
    splits = plates().tasks[0].splits
    with pytest.raises(DataError, match="no test images"):
        run(plates(splits={**splits, "test": torch.tensor([], dtype=torch.long)}))
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^image number 3 cannot be read: truncated$"):
            run(plates(broken=(3,)), compute=Compute(progress=False, workers=workers))
    names = tuple(f"{index}.png" for index in range(36))
    with pytest.raises(DataError, match=r"^image 3\.png cannot be read: truncated$"):
        run(dataclasses.replace(plates(broken=(3,)), names=names))
    with pytest.raises(DataError, match=r"1 of 9 images cannot be read: 30\.png \(.*truncated"):
        run(dataclasses.replace(plates(broken=(30,)), names=names))


def test_sources_without_a_network(tmp_path):
    save_features(FeatureSet(torch.zeros(36, 2), [str(i) for i in range(36)]), tmp_path / "f.npz")
    with pytest.raises(ConfigError, match="give a model"):
        context = EvalContext(open_source(f"features:{tmp_path / 'f.npz'}"), plates(), Compute())
        Finetune().evaluate(context)
    with pytest.raises(ConfigError, match="no weights"):
        run(source="raw-pixels")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"labels": (0.0,)}, "labels"),
        ({"labels": ()}, "labels"),
        ({"lr": (0.1, -1.0)}, "lr"),
        ({"flip": 1.5}, "flip"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "warmup_epochs"),
        ({"tasks": ("a", "a")}, "tasks must be .*different values"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Finetune(**settings)


def test_unknown_optimizer():
    with pytest.raises(ConfigError, match="list_optimizers"):
        run(optimizer="sgdd")


def test_optimizers_that_cannot_be_used(monkeypatch):
    model = Classifier(nn.Linear(2, 2), 2, 2)
    with pytest.raises(ConfigError, match="'adahessian' cannot be used here: it needs second"):
        build_optimizer(model, 0.1, Finetune(optimizer="adahessian"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="'bnbadam' cannot be used here"):
        build_optimizer(model, 0.1, Finetune(optimizer="bnbadam"))


def test_learning_rate():
    assert [lr_fraction(step, 4, 8) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert lr_fraction(4, 4, 8) == 1.0
    assert lr_fraction(6, 4, 8) == pytest.approx(0.5)
    assert lr_fraction(7, 4, 8) == pytest.approx((1 + math.cos(0.75 * math.pi)) / 2)
    assert lr_fraction(0, 0, 1) == 1.0


def test_layer_decay_and_weight_decay():
    model = Classifier(timm.create_model("test_vit", num_classes=0), 64, 3)
    settings = Finetune(layer_decay=0.5, weight_decay=0.1, optimizer="adamw")
    optimizer = build_optimizer(model, 0.01, settings)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of = {
        names[id(parameter)]: group
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert set(of) == set(names.values())
    scales = [
        of[f"backbone.{name}"]["lr_scale"]
        for name in (
            "patch_embed.proj.weight",
            "blocks.0.mlp.fc1.weight",
            "blocks.5.mlp.fc1.weight",
        )
    ]
    assert scales[0] * 2 == scales[1]
    assert scales[1] * 2**5 == scales[2]
    assert of["head.weight"].get("lr_scale", 1.0) == 1.0
    for name in ("head.weight", "backbone.blocks.0.mlp.fc1.weight"):
        assert of[name]["weight_decay"] == 0.1
    for name in ("head.bias", "backbone.pos_embed", "backbone.norm.weight"):
        assert of[name]["weight_decay"] == 0


def test_one_step_of_sgd():
    # One step of plain SGD with Nesterov momentum moves by lr * (1 + momentum) * gradient.
    model = Classifier(torch.nn.Flatten(), 4, 2)
    optimizer = build_optimizer(model, 0.1, Finetune(weight_decay=0.0))
    images, labels = torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 1])
    before = model.head.weight.detach().clone()
    cross_entropy(model(images), labels).backward()
    gradient = model.head.weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(model.head.weight.detach(), before - 0.1 * 1.9 * gradient)
