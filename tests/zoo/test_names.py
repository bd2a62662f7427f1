from pathlib import Path

import pytest

from cassle_zoo.specs import MODEL_SPECS, model_name
from cassle_zoo.zoo.names import (
    NameParts,
    contradictions,
    parse_name,
    public_name,
    resolve_arch,
)


@pytest.mark.parametrize(
    ("name", "arch", "conditioned", "method", "tag"),
    [
        ("resnet50_cassle_simclr.in100", "resnet50", True, "simclr", "in100"),
        ("resnet18_barlow_twins.emoji64", "resnet18", False, "barlow_twins", "emoji64"),
        ("vit_small_cassle_mocov3.a.b", "vit_small", True, "mocov3", "a.b"),
        ("vit_small_patch16_224_simclr.mine", "vit_small_patch16_224", False, "simclr", "mine"),
        ("resnet18_birds", "resnet18", None, None, ""),
        ("birds_cassle", None, True, None, ""),
        ("birds.v2", None, None, None, "v2"),
        ("resnet18-byol", None, None, None, ""),
    ],
)
def test_what_names_say(
    name: str, arch: str | None, conditioned: bool | None, method: str | None, tag: str
) -> None:
    assert parse_name(name) == NameParts(arch=arch, conditioned=conditioned, method=method, tag=tag)


@pytest.mark.parametrize("spec", MODEL_SPECS.values(), ids=MODEL_SPECS)
def test_names_of_the_registry_are_true(spec: object) -> None:
    facts = vars(spec)
    name = f"{facts['name']}.{facts['tag']}"
    made = model_name(
        facts["arch"], facts["method"], conditioned=facts["conditioned"], tag=facts["tag"]
    )
    assert made == name
    keys = ("timm_arch", "method", "conditioned")
    assert contradictions(name, **{key: facts[key] for key in keys}) == []


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("resnet18_cassle_simclr.x", {"timm_arch": "convnext_atto"}, "says resnet18, but the arch"),
        ("resnet18_cassle_simclr.x", {"conditioned": False}, "says cassle, but the projector is p"),
        ("resnet18_simclr.x", {}, "says plain, but the projector is conditioned"),
        ("mine_byol.x", {}, "says byol, but the method is simclr"),
        ("mine.emoji64", {"reader": ""}, "but the images are a folder or archive"),
        ("mine.in100", {"reader": "emoji64"}, "ImageNet-100, but the images are emoji64"),
        ("mine.stl10", {"reader": "wds/x"}, "but the images are wds/x"),
    ],
)
def test_what_is_not_so(name: str, changes: dict[str, object], says: str) -> None:
    facts: dict[str, object] = {"timm_arch": "resnet18", "method": "simclr", "conditioned": True}
    [found] = contradictions(name, **{**facts, **changes})  # type: ignore[arg-type]
    assert says in found


@pytest.mark.parametrize(
    ("name", "reader"),
    [("mine.in100", ""), ("mine.in100", "wds/x"), ("mine.stl10", "torch/stl10"), ("a.b", "x")],
)
def test_what_may_be_so(name: str, reader: str) -> None:
    found = contradictions(
        name, timm_arch="resnet18", method="simclr", conditioned=None, reader=reader
    )
    assert found == []


@pytest.mark.parametrize(
    ("arch", "size", "timm_arch", "model_args"),
    [
        ("resnet18", 64, "resnet18", {}),
        ("resnet18_cassle_simclr", 64, "resnet18", {}),
        ("efficientnet_lite0_cassle_simclr", 64, "tf_efficientnet_lite0", {}),
        ("convnext_tiny", 64, "convnext_tiny", {}),
        ("vit_small", 224, "vit_small_patch16_224", {"num_heads": 12}),
        ("vit_small", 64, "vit_small_patch16_224", {"num_heads": 12, "img_size": 64}),
        ("vit_base", 224, "vit_base_patch16_224", {}),
        ("vit_tiny_patch16_224", 96, "vit_tiny_patch16_224", {"img_size": 96}),
    ],
)
def test_timm_models_of_architectures(
    arch: str, size: int, timm_arch: str, model_args: dict[str, int]
) -> None:
    assert resolve_arch(arch, size) == (timm_arch, model_args)


def test_public_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert public_name("local-dir:.") == f"local-dir:{tmp_path.name}"
    assert public_name("resnet18_cassle_simclr@refs/pr/1") == "resnet18_cassle_simclr@refs/pr/1"
    assert public_name("hf-hub:org/name@main") == "hf-hub:org/name@main"
    assert public_name("local-dir:/somewhere/else/folder") == "local-dir:folder"
    assert public_name("/somewhere/else/weights.pth") == "weights.pth"
    assert public_name("resnet18.a1_in1k") == "resnet18.a1_in1k"
    assert public_name("") == ""
