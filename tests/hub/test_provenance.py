"""What a model folder says of its making is what was run; contradictions are found."""

import re
from pathlib import Path
from typing import Any

import pytest
from finished_run import NAME, write_run
from huggingface_hub import ModelCard

from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.common.files import read_json, write_json
from cassle_zoo.hub.export import export_run
from cassle_zoo.hub.provenance import data_of, license_of, problems, with_licenses
from cassle_zoo.hub.publish.verify import verify_folder
from cassle_zoo.hub.reference import write_reference
from cassle_zoo.records import SETTINGS_FILE
from cassle_zoo.specs import DATASETS, MODEL_SPECS
from cassle_zoo.store.folder import CONFIG_FILE, bundled_folder, read_config

EMOJI64 = DATASETS["emoji64"]
ADAPTED = "efficientnet_lite0_cassle_simclr.in1k_emoji64"
LITE0 = MODEL_SPECS[ADAPTED].init or ""
PUBLISHED = {"count": EMOJI64.images, "names": "0", "sha256": EMOJI64.sha256}
WITHOUT_IMAGES = Path(__file__).with_name("format_2_config.json")  # from before they were recorded
OTHER = {"count": 200, "names": "1", "sha256": "2"}


def training(reader: str = "emoji64", images: Any = None, **changes: Any) -> dict[str, Any]:
    settings = {
        "arch": "resnet18",
        "data": {"dataset": reader, "root": "photos"},
        "optim": {"epochs": 25, "batch_size": 128},
    }
    made = {"config": settings, "steps": 1700, **changes}
    return made if images is None else {**made, "images": images}


@pytest.mark.parametrize(
    ("name", "made", "data"),
    [
        (NAME, training(images=PUBLISHED), "emoji64"),
        (NAME, training(), "emoji64"),
        ("mine", training(images=PUBLISHED), "emoji64"),
        (
            NAME,
            training(images=OTHER),
            "images in the form of emoji64, but not the published ones (200 images)",
        ),
        (
            NAME,
            training(steps=75),
            "images in the form of emoji64, but not the published ones",
        ),
        ("resnet18_simclr.mine", training("", images=OTHER), "photos (200 images)"),
        ("resnet50_simclr.in100", training("", images=OTHER), "photos (200 images)"),
        ("resnet50_simclr.in100", training("", {"count": 126_689, "names": ""}), "in100"),
        ("resnet18_simclr.stl10", training("torch/stl10", {"count": 100_000}), "stl10"),
        ("mine.birds", training("hfds/a/b", images=OTHER), "photos (200 images)"),
        ("mine.birds", {}, "birds"),
    ],
)
def test_data(name: str, made: dict[str, Any], data: str) -> None:
    assert data_of(name, made) == data


@pytest.mark.parametrize(
    ("name", "made", "license"),
    [
        (NAME, training(images=PUBLISHED), "apache-2.0"),
        (NAME, training(images=OTHER), "unknown"),
        (NAME, training(), "unknown"),
        (NAME, training(images=PUBLISHED, total_steps=1900), "unknown"),
        (NAME, training(images=PUBLISHED, init={"name": "resnet18.a1_in1k"}), "unknown"),
        (ADAPTED, training(images=PUBLISHED, init={"sha256": LITE0}), "apache-2.0"),
        (ADAPTED, training(images=PUBLISHED, init={"sha256": "0" * 64}), "unknown"),
        (ADAPTED, training(images=PUBLISHED), "unknown"),
        ("resnet18_cassle_simclr.mine", training(images=PUBLISHED), "unknown"),
        ("resnet50_cassle_simclr.in100", training("", {"count": 126_689}), "unknown"),
    ],
)
def test_license(name: str, made: dict[str, Any], license: str) -> None:
    assert license_of(name, made) == license


@pytest.mark.parametrize("name", [name for name, spec in MODEL_SPECS.items() if spec.released])
def test_bundled_models_say_what_is_so(name: str) -> None:
    assert problems(read_config(bundled_folder(MODEL_SPECS[name]))) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "convnext_atto"}, "says resnet18, but the architecture is convnext_atto"),
        ({"method": "byol"}, "says simclr, but the method is byol"),
        ({"conditioning": "none"}, "says cassle, but the projector is plain"),
        ({"reader": ""}, r"the tag 'emoji64' says .*, but the images are a folder"),
        ({"steps": 75}, r"emoji64 .*, but an epoch of 3 steps of 128 images is not one of 8,718"),
        ({"images": OTHER}, r"but there were 200 images and not 8,718"),
        ({"images": {**PUBLISHED, "sha256": "3"}}, "but the images have sha256 3"),
        ({"arch": "resnet34"}, "trained as resnet34, but the architecture is resnet18"),
    ],
)
def test_contradictions_in_folders_made_earlier(changes: dict[str, Any], says: str) -> None:
    config = read_json(WITHOUT_IMAGES)
    own = config["cassle_zoo"]
    for key, value in changes.items():
        if key == "architecture":
            config[key] = value
        elif key == "method":
            own[key] = value
        elif key == "conditioning":
            own["projector"][key] = value
        elif key == "reader":
            own["training"]["config"]["data"]["dataset"] = value
        elif key == "arch":
            own["training"]["config"][key] = value
        else:
            own["training"][key] = value
    found = "; ".join(problems(config))
    assert re.search(says, found), found


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"images": PUBLISHED}, None),
        ({"images": OTHER}, r"but there were 200 images and not 8,718"),
        ({"arch": "resnet34"}, "trained as resnet34, but the architecture is resnet18"),
        ({"data": {"dataset": ""}}, r"the tag 'emoji64' says .*, but the images are a folder"),
    ],
)
def test_the_settings_of_converted_runs_are_compared_too(
    changes: dict[str, Any], says: str | None
) -> None:
    config = read_json(WITHOUT_IMAGES)
    made = config["cassle_zoo"]["training"]
    made["config"] = {SETTINGS_FILE: {**made["config"], **changes}}
    made.update(source="a run of cassle-zoo", steps=7)  # perhaps unfinished
    found = "; ".join(problems(config))
    assert re.search(says, found) if says else not found, found


def test_verify_compares_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", name="resnet18_cassle_simclr.mine")
    folder = export_run(run, tmp_path / "model")
    config = read_json(folder / CONFIG_FILE)
    config["cassle_zoo"]["name"] = "convnext_atto_cassle_simclr.mine"
    write_json(folder / CONFIG_FILE, config)
    write_reference(folder)
    failed = {check.name: check.detail for check in verify_folder(folder) if not check.passed}
    assert "says convnext_atto, but the architecture is resnet18" in failed["config"]


def test_export_compares_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", name="resnet34_cassle_simclr.mine")
    with pytest.raises(ModelFolderError, match=r"export\.json contradicts itself: .*says resnet34"):
        export_run(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_card_of_own_images(tmp_path: Path) -> None:
    made = training("", images={"count": 517, "names": "0"})
    run = write_run(tmp_path / "run", name="resnet18_cassle_simclr.mine", training=made)
    card = ModelCard.load(export_run(run, tmp_path / "model") / "README.md")
    assert card.data.license == "unknown"
    assert "- Data: photos (517 images)" in card.text
    assert "emoji" not in card.text
    assert "cassle-zoo train" not in card.text  # there is no record of a command
    stated = tmp_path / "stated"
    assert main(["hub", "export", str(run), "-o", str(stated), "--license", "cc-by-4.0"]) == 0
    assert ModelCard.load(stated / "README.md").data.license == "cc-by-4.0"


def test_starting_weights_are_on_the_card(tmp_path: Path) -> None:
    init = {"name": "resnet18.a1_in1k", "sha256": "00ff", "license": None, "origin": "hf-hub:a/b"}
    made = training("", images={"count": 517, "names": "0"}, init=init)
    run = write_run(tmp_path / "run", name="mine", training=made)
    text = ModelCard.load(export_run(run, tmp_path / "model") / "README.md").text
    said = "- Starting weights: resnet18.a1_in1k, licence unknown, sha256 `00ff`, from hf-hub:a/b\n"
    assert said in text


def test_the_card_of_adapted_weights_names_their_origin() -> None:
    folder = bundled_folder(MODEL_SPECS[ADAPTED])
    card = (folder / "README.md").read_text("utf-8")
    assert "efficientnet-lite0-57934424.pth, licence apache-2.0" in card
    assert LITE0 in card
    config = read_config(folder)
    unknown = {**config["cassle_zoo"]["training"]["init"], "license": None}
    filled = with_licenses({"init": unknown})
    assert filled == {"init": config["cassle_zoo"]["training"]["init"]}
    other = {"init": {"sha256": "0" * 64, "license": None}}
    assert with_licenses(other) is other
    assert with_licenses({}) == {}
