from typing import Any

import timm
import torch

import cassle_zoo
from cassle_zoo.accel.initialisation import skip_random_weights

NAME = "resnet18_cassle_simclr.emoji64"


def test_nothing_is_drawn_and_constants_are_set() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with skip_random_weights():
        model: Any = timm.create_model("resnet18", num_classes=3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(model.bn1.weight, torch.ones(64))
    timm.create_model("resnet18", num_classes=3)
    assert not torch.equal(before, torch.get_rng_state())


def test_a_new_classifier_of_a_pretrained_model_is_drawn_as_ever() -> None:
    heads = []
    for name in ("resnet18", NAME):
        torch.manual_seed(0)
        own = name == NAME
        model: Any = timm.create_model(name, pretrained=own, num_classes=7)
        heads.append(model.fc.weight)
    assert heads[1].std() > 0
    assert torch.equal(heads[0], heads[1])


def test_skipping_changes_no_loaded_weight() -> None:
    skipped = cassle_zoo.create_model(NAME, pretrained=True).state_dict()
    drawn = timm.create_model(NAME, pretrained=True, num_classes=7).state_dict()
    assert skipped.keys() == drawn.keys() - {"fc.weight", "fc.bias"}
    for key, value in skipped.items():
        assert value.dtype == drawn[key].dtype
        assert torch.equal(value, drawn[key])
