import traceback
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import ModelFolderError, UnknownNameError, WeightsUnavailableError
from cassle_zoo.eval.sources import find_source
from cassle_zoo.features.transform import eval_transform
from cassle_zoo.zoo.create import create_model
from cassle_zoo.zoo.timm_names import check_timm_tag


@pytest.mark.parametrize("name", ["resnet18.nope", "timm/resnet18.a1_in1", "vit_base_patch16_224."])
def test_unknown_tags_list_those_there_are(name: str) -> None:
    for pretrained in (True, False):
        if name.endswith("."):
            check_timm_tag(name)
            continue
        with pytest.raises(UnknownNameError, match=r"timm's resnet18.*a1_in1k.*tv_in1k"):
            create_model(name, pretrained=pretrained)


def test_unknown_tags_everywhere_a_name_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownNameError, match="a1_in1k"):
        eval_transform("resnet18.nope")
    with pytest.raises(UnknownNameError, match="a1_in1k"):
        find_source("timm:resnet18.nope")
    assert main(["features", "resnet18.nope", __file__, "-o", "x.csv"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cassle-zoo: error: Unknown tag of timm's resnet18 'nope'")
    assert said.count("\n") == 1


def test_architectures_without_weights() -> None:
    bare = next(name for name in timm.list_models() if not timm.list_pretrained(f"{name}.*"))
    with pytest.raises(UnknownNameError, match="no pretrained weights"):
        check_timm_tag(f"{bare}.nope")


def test_weights_that_cannot_be_loaded_are_an_error_that_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no answer of https://user:hunter2@mirror.org/resnet18")

    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr("cassle_zoo.zoo.timm_names.is_unreachable", lambda: False)
    message = r"resnet18 cannot be loaded: no answer of https://\*\*\*@mirror\.org"
    with pytest.raises(WeightsUnavailableError, match=message) as caught:
        create_model("resnet18", pretrained=True)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {}),
        # timm's own weights are an .npz, those on the Hub are not.
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", {"depth": 1}),
    ],
)
def test_without_network_cache_dir_and_own_weights_count(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg: Any = timm.get_pretrained_cfg(name)
    repo = tmp_path / f"models--{cfg.hf_hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    cached, own = (timm.create_model(name, **options).state_dict() for _ in range(2))
    save_file(cached, snapshot / "model.safetensors")
    save_file(own, tmp_path / "own.safetensors")
    monkeypatch.setattr("cassle_zoo.zoo.timm_names.is_unreachable", lambda: True)
    usual = create_model(name, pretrained=True, cache_dir=tmp_path, **options)
    overlay = {"file": str(tmp_path / "own.safetensors"), "custom_load": False}
    chosen = create_model(
        name, pretrained=True, cache_dir=tmp_path, pretrained_cfg_overlay=overlay, **options
    )
    for built, expected in ((usual, cached), (chosen, own)):
        state = built.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in state.items())


@pytest.mark.parametrize("classes", [1000, 0])
@pytest.mark.parametrize("arguments", [{}, {"num_classes": 10}, {"features_only": True}])
@pytest.mark.parametrize("wrong", ["missing", "prefixed"])
def test_weights_that_lack_some_of_the_backbone_are_refused(
    classes: int, arguments: dict[str, Any], wrong: str, tmp_path: Path
) -> None:
    """timm is not strict if the number of classes differs, and leaves random weights."""
    model = timm.create_model("test_resnet", num_classes=classes)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    name = f"local-dir:{tmp_path}"
    assert create_model(name, pretrained=True, **arguments)
    state = model.state_dict()
    if wrong == "missing":
        state = {k: v for k, v in state.items() if not k.startswith("layer4.")}
    else:
        state = {f"net.{k}": v for k, v in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelFolderError, match="issing"):
        create_model(name, pretrained=True, **arguments)
    overlay = {"file": str(tmp_path / "model.safetensors")}
    with pytest.raises((ModelFolderError, WeightsUnavailableError), match="issing"):
        create_model("test_resnet", pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
