import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from finished_run import NAME, write_run
from huggingface_hub import ModelCard
from results import make_result
from safetensors.torch import load, load_file, save_file

import cassle_zoo
from cassle_zoo.common.errors import ConfigError, ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.export import export_run
from cassle_zoo.hub.publish.verify import verify_folder
from cassle_zoo.store.folder import CONFIG_FILE, MODEL_FILE, PROJECTOR_FILE, REFERENCE_FILE


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write_run(tmp_path_factory.mktemp("run"))


def features_of(run_dir: Path) -> torch.Tensor:
    backbone = timm.create_model("resnet18", num_classes=0).eval()
    backbone.load_state_dict(load_file(run_dir / "final" / "backbone.safetensors"))
    with torch.no_grad():
        features: torch.Tensor = backbone(torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64))
    return features


WITHOUT_CASSLE_ZOO = """
import sys
sys.modules["cassle_zoo"] = None
import timm, torch
features = {}
for folder in sys.argv[2:]:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    assert tuple(config["input_size"]) == (3, 64, 64), config
    assert tuple(config["mean"]) == (0.5, 0.5, 0.5), config
    assert all(p.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad():
        features[folder] = model(torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)
    assert model.num_classes == 3
torch.save(features, sys.argv[1])
"""


def test_timm_alone_loads_the_folder(run_dir: Path, tmp_path: Path) -> None:
    tolerances = {torch.float32: 0.0, torch.float16: 2e-3, torch.bfloat16: 2e-2}
    folders = [str(export_run(run_dir, tmp_path / f"{d}", dtype=d)) for d in tolerances]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", WITHOUT_CASSLE_ZOO, str(tmp_path / "features.pt"), *folders],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    found = torch.load(tmp_path / "features.pt", weights_only=True)
    for folder, tolerance in zip(folders, tolerances.values(), strict=True):
        torch.testing.assert_close(
            found[folder], features_of(run_dir), rtol=tolerance, atol=tolerance
        )


def test_cassle_zoo_loads_the_folder(tmp_path: Path) -> None:
    prepared = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    run_dir = write_run(tmp_path / "run", **prepared)
    folder = export_run(run_dir, tmp_path / "out", dtype=torch.float32)
    model = cassle_zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        found = model(torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64))
    torch.testing.assert_close(found, features_of(run_dir), rtol=0, atol=0)
    projector = cassle_zoo.create_projector(f"local-dir:{folder}", pretrained=True)
    trained = load_file(run_dir / "final" / "projector.safetensors")
    assert all(torch.equal(v, trained[k]) for k, v in projector.state_dict().items())
    info = cassle_zoo.model_info(f"local-dir:{folder}")
    assert (info.full_name, info.num_features, info.conditioned) == (NAME, 512, True)
    assert {name: getattr(info, name) for name in prepared} == {
        "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear",
    }  # fmt: skip


def test_files_and_types(run_dir: Path, tmp_path: Path) -> None:
    folder = export_run(run_dir, tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert names == {MODEL_FILE, PROJECTOR_FILE, CONFIG_FILE, REFERENCE_FILE, "README.md"}
    for file in (MODEL_FILE, PROJECTOR_FILE):
        types = {v.dtype for v in load_file(folder / file).values()}
        assert types == {torch.float16, torch.int64}
    assert all(check.passed for check in verify_folder(folder))
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["architecture"] == "resnet18"
    assert config["global_pool"] == "avg"
    assert config["cassle_zoo"]["training"]["steps"] == 10
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "timm"
    assert NAME in card.text


def test_the_models_own_results_stand_in_its_card(run_dir: Path, tmp_path: Path) -> None:
    folder = export_run(run_dir, tmp_path / "out")
    metrics = {"mine": {"knn_top1": 0.4321}}
    own = make_result("out", sha256=sha256(folder / MODEL_FILE), task="knn", metrics=metrics)
    own.save(tmp_path / "results" / "own.json")
    export_run(run_dir, folder, overwrite=True, results=[tmp_path / "results"])
    assert "0.4321" in (folder / "README.md").read_text()
    make_result("out", sha256="0" * 64).save(tmp_path / "results" / "own.json")
    with pytest.raises(ModelFolderError, match=r"none of 1 results .*cassle-zoo eval TASK"):
        export_run(run_dir, tmp_path / "other", results=[tmp_path / "results"])


def test_the_folder_is_loaded_by_timm_from_where_it_was_moved(
    run_dir: Path, tmp_path: Path
) -> None:
    folder = export_run(run_dir, tmp_path / "out").rename(tmp_path / "a #1 b")
    assert cassle_zoo.create_model(f"local-dir:{folder}", pretrained=True) is not None
    assert str(tmp_path) not in (folder / CONFIG_FILE).read_text()


def test_weights_beyond_half_precision_need_float32(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "final" / "backbone.safetensors"
    state = load(path.read_bytes())
    state["layer4.1.bn2.running_var"][3] = 1e5
    save_file(state, path)
    with pytest.raises(ModelFolderError, match=r"layer4\.1\.bn2\.running_var.*float32"):
        export_run(run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folder = export_run(run_dir, tmp_path / "out", dtype=torch.float32)
    assert load_file(folder / MODEL_FILE)["layer4.1.bn2.running_var"][3] == 1e5


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"not a finished run.*to continue it"):
        export_run(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": 3}, "method is 3"),
        ({"timm_arch": "resnet19"}, "timm has no model 'resnet19'"),
        ({"timm_arch": "resnet34"}, r"backbone\.safetensors does not fit"),
        ({"model_args": {"heads": 2}}, r"export\.json: timm .*cannot build.*\{'heads': 2\}"),
        ({"projector": {"in_features": 512, "depth": 3}}, r"projector\.safetensors does not fit"),
        ({"projector": {"in_features": 0}}, "in_features must be"),
        ({"projector": {"in_features": 512, "conditioning": "glue"}}, "glue"),
        ({"mean": [0.5]}, r"mean is \[0\.5\], expected 3 values"),
    ],
)
def test_a_run_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run_dir = write_run(tmp_path / "run", **changes)
    with pytest.raises(ModelFolderError, match=message):
        export_run(run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_json_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "export.json").write_text("{")
    with pytest.raises(ModelFolderError, match=r"export\.json is not a JSON object"):
        export_run(tmp_path, tmp_path / "out")


def test_existing_folders(run_dir: Path, tmp_path: Path) -> None:
    folder = export_run(run_dir, tmp_path / "out")
    with pytest.raises(ModelFolderError, match="not empty"):
        export_run(run_dir, folder)
    export_run(run_dir, folder, dtype=torch.float32, overwrite=True)
    assert load_file(folder / MODEL_FILE)["conv1.weight"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.int8])
def test_other_types_are_refused(run_dir: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    with pytest.raises(
        ConfigError, match=r"use one of torch\.float16, torch\.bfloat16, torch\.float32"
    ):
        export_run(run_dir, tmp_path / "out", dtype=dtype)
