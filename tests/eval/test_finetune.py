import math

import pytest
import timm
import torch
from torch.nn.functional import cross_entropy

from cassle_zoo.eval.finetune import Classifier, TrainSettings, build_optimizer
from cassle_zoo.eval.finetune import learning_rate as rate
from cassle_zoo.eval.metrics import accuracies


def test_learning_rate():
    assert [rate(step, 4, 8) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(4, 4, 8) == 1.0
    assert rate(6, 4, 8) == pytest.approx(0.5)
    assert rate(7, 4, 8) == pytest.approx((1 + math.cos(0.75 * math.pi)) / 2)
    assert rate(0, 0, 1) == 1.0


def test_layer_decay_and_weight_decay():
    model = Classifier(timm.create_model("test_vit", num_classes=0), 64, 3)
    settings = TrainSettings(layer_decay=0.5, weight_decay=0.1, optimizer="adamw")
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
    assert (
        of["head.weight"]["weight_decay"] == of["backbone.blocks.0.mlp.fc1.weight"]["weight_decay"]
    )
    undecayed = ("head.bias", "backbone.pos_embed", "backbone.norm.weight")
    assert [of[name]["weight_decay"] for name in undecayed] == [0, 0, 0]


def test_a_step_by_hand():
    # One step of plain SGD with Nesterov momentum moves by lr * (1 + momentum) * gradient.
    model = Classifier(torch.nn.Flatten(), 4, 2)
    optimizer = build_optimizer(model, 0.1, TrainSettings(weight_decay=0.0))
    images, labels = torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 1])
    before = model.head.weight.detach().clone()
    cross_entropy(model(images), labels).backward()
    gradient = model.head.weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(model.head.weight.detach(), before - 0.1 * 1.9 * gradient)


def test_accuracies_by_hand():
    logits = torch.eye(7)[[0, 1, 2, 3]] - 0.1 * torch.arange(7)
    found = accuracies(logits, torch.tensor([0, 0, 0, 3]))
    assert found == {"top1": 0.5, "top5": 1.0, "mean_per_class": pytest.approx((1 / 3 + 1) / 2)}
    logits = torch.arange(7.0).expand(2, 7)
    assert accuracies(logits, torch.tensor([2, 1]))["top5"] == 0.5
    assert set(accuracies(logits[:, :5], torch.tensor([2, 1]))) == {"top1", "mean_per_class"}
