"""The width of features, in every family of timm."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from cassle_zoo.common.errors import ConfigError
from cassle_zoo.zoo import width
from cassle_zoo.zoo.width import feature_width

SMALL = ("atto", "pico", "femto", "nano", "tiny", "_050", "_s0", "xxs", "small", "18", "b0")
# Where timm's `num_features` is that of the last feature map, and a wider layer follows.
WIDER = {
    "lcnet_050": 1280,
    "mobilenetv3_small_050": 1024,
    "vgg11": 4096,
    "ghostnet_050": 1280,
    "hgnet_tiny": 2048,
    "efficientvit_b0": 1280,
    "inception_next_atto": 960,
    "mambaout_femto": 1152,
}


@pytest.mark.parametrize("arch", WIDER)
def test_a_layer_after_the_last_feature_map_counts(arch: str) -> None:
    if (arch, timm.__version__) == ("inception_next_atto", "1.0.29"):
        with pytest.raises(ConfigError, match=r"features of shape \(2, 0\)"):
            feature_width(arch, {}, (3, 224, 224))
        return
    assert feature_width(arch, {}, (3, 224, 224)) == WIDER[arch]


def test_it_is_what_the_network_gives() -> None:
    model: Any = timm.create_model("mobilenetv3_small_050", num_classes=0).eval()
    with torch.no_grad():
        features = model(torch.zeros(1, 1 + 2, 64, 64))
    assert features.shape[1] == feature_width("mobilenetv3_small_050", {}, (3, 64, 64))
    assert features.shape[1] != model.num_features


def smallest(module: str) -> str:
    """Return a small model of a module of timm."""
    names = timm.list_models(module=module)
    return min(names, key=lambda name: (not any(word in name for word in SMALL), len(name)))


@pytest.mark.slow
@pytest.mark.parametrize("module", [m for m in timm.list_modules() if timm.list_models(module=m)])
def test_every_family_of_timm(module: str) -> None:
    arch = smallest(module)
    cfg: Any = timm.get_pretrained_cfg(arch)
    with torch.device("meta"):
        model: Any = timm.create_model(arch, num_classes=0)
    found = feature_width(arch, {}, cfg.input_size)
    assert found == getattr(model, "head_hidden_size", model.num_features)


class Looking(nn.Module):
    """A network that looks at its numbers, which the meta device does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert float(x.sum()) == 0
        return x.mean((2, 3))


class Map(nn.Module):
    """A network that gives a map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture
def returning(monkeypatch: pytest.MonkeyPatch) -> Any:
    def build(network: nn.Module) -> None:
        width._width.cache_clear()
        width._on_meta.cache_clear()
        monkeypatch.setattr(width, "_build", lambda *_: network)

    yield build
    width._width.cache_clear()
    width._on_meta.cache_clear()


def test_a_network_that_looks_at_its_numbers_runs_on_the_cpu(returning: Any) -> None:
    returning(Looking())
    assert feature_width("looking", {}, (5, 8, 8)) == 5


def test_what_gives_no_vector_is_refused(returning: Any) -> None:
    returning(Map())
    with pytest.raises(ConfigError, match=r"shape \(2, 3, 8, 8\) .* not one vector per image"):
        feature_width("map", {}, (3, 8, 8))


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="'vit_tiny_patch16_224' cannot be built, or run, for im"):
        feature_width("vit_tiny_patch16_224", {}, (3, 100, 100))
