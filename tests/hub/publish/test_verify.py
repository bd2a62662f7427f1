"""Checks of folders; those of repositories are in test_publish.py."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from results import make_result
from safetensors import safe_open
from safetensors.torch import load, save_file
from toy import TOY

from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.cards.card import write_card
from cassle_zoo.hub.cards.check import card_problems
from cassle_zoo.hub.publish.pull import model_name
from cassle_zoo.hub.publish.verify import verify, verify_folder
from cassle_zoo.hub.reference import recorded_hashes, write_reference
from cassle_zoo.records import Result
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store import folder as model_folder
from cassle_zoo.store.folder import CARD_FILE, CONFIG_FILE, MODEL_FILE

RELEASED = [name for name, spec in MODEL_SPECS.items() if spec.released]
ALL = ["files", "config", "hashes", "backbone", "projector", "reference", "card"]


def failures(folder: Path) -> dict[str, str]:
    checks = verify_folder(folder)
    assert [check.name for check in checks] == ALL
    assert not any("\n" in check.detail for check in checks)
    return {check.name: check.detail for check in checks if not check.passed}


def edit_config(folder: Path, change: Any) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    change(config)
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def test_a_good_folder(folder: Path) -> None:
    checks = verify_folder(folder)
    assert all(check.passed for check in checks)
    assert "not a model of the registry" in checks[2].detail


@pytest.mark.parametrize("name", RELEASED)
def test_bundled_models(name: str) -> None:
    checks = verify(name)
    assert all(check.passed for check in checks), checks
    assert "and in the registry" in checks[2].detail


def test_files_of_the_registry_must_be_those_of_the_registry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {**recorded_hashes(folder), CONFIG_FILE: "0" * 64}
    monkeypatch.setitem(MODEL_SPECS, TOY.full_name, replace(TOY, sha256=published))
    assert "is not the published file" in failures(folder)["hashes"]
    # Weights of one's own under the same name are another model.
    monkeypatch.setitem(MODEL_SPECS, TOY.full_name, replace(TOY, sha256={MODEL_FILE: "1" * 64}))
    assert failures(folder) == {}


@pytest.mark.parametrize("offset", [9, 2000, -1])
def test_one_bit(folder: Path, offset: int) -> None:
    content = bytearray((folder / MODEL_FILE).read_bytes())
    content[offset] ^= 1
    (folder / MODEL_FILE).write_bytes(content)
    assert "hashes" in failures(folder)


def test_all_failures_are_collected(folder: Path) -> None:
    edit_config(folder, lambda config: config["pretrained_cfg"].update(mean=[0.1, 0.1, 0.1]))
    projector = folder / "projector.safetensors"
    state = load(projector.read_bytes())
    save_file(dict(list(state.items())[1:]), projector)
    (folder / CARD_FILE).unlink()
    assert failures(folder).keys() == {"files", "hashes", "projector", "reference", "card"}


def test_a_folder_that_makes_no_sense_is_no_crash(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(model_args={"nonsense": 1}))
    found = failures(folder)
    assert found.keys() == {"hashes", "backbone", "reference"}
    assert "nonsense" in found["backbone"]


@pytest.mark.parametrize("file", [MODEL_FILE, CONFIG_FILE, "reference.safetensors"])
def test_a_missing_file(folder: Path, file: str) -> None:
    (folder / file).unlink()
    found = failures(folder)
    assert f"lacks {file}" in found["files"]
    assert "reference" in found


def test_what_is_no_model_folder_at_all(tmp_path: Path) -> None:
    assert failures(tmp_path).keys() == set(ALL)
    found = failures(tmp_path / "missing")
    assert found.keys() == set(ALL)
    assert all("is not a folder" in text or "does not exist" in text for text in found.values())


def test_a_change_of_ones_own_is_not_mended_by_installing_again(folder: Path) -> None:
    edit_config(folder, lambda config: config["cassle_zoo"].update(method="byol"))
    assert f"run `python -m cassle_zoo.hub.reference {folder}`" in failures(folder)["hashes"]


def test_other_weights_with_hashes_of_their_own_fail_the_reference(folder: Path) -> None:
    reference = load((folder / "reference.safetensors").read_bytes())
    state = load((folder / MODEL_FILE).read_bytes())
    save_file({k: v * 1.1 if v.ndim > 1 else v for k, v in state.items()}, folder / MODEL_FILE)
    write_reference(folder)
    new = load((folder / "reference.safetensors").read_bytes())
    assert failures(folder) == {}
    with safe_open(folder / "reference.safetensors", "pt") as file:
        header = file.metadata()
    save_file({**new, "features": reference["features"]}, folder / "reference.safetensors", header)
    assert failures(folder).keys() == {"reference"}


CARD = """---
license: mit
library_name: timm
pipeline_tag: image-feature-extraction
tags:
- timm
{extra}---

# A model
"""
BOMB = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(4))
INDEX = """model-index:
- name: {name}
  results:
  - task:
      type: image-feature-extraction
    dataset:
      name: toys
      type: toys
    metrics:
    - type: accuracy
      value: {value}
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CARD.format(extra=""), None),
        (CARD.format(extra=INDEX.format(name="m", value=0.5)), None),
        ("\ufeff" + CARD.format(extra=""), None),
        (CARD.format(extra="").replace("license: mit\n", ""), "lacks license"),
        (CARD.format(extra="").replace("# A model\n", ""), "has no text"),
        (CARD.format(extra="x: [1\n"), "cannot be read"),
        (CARD.format(extra=INDEX.format(name="m", value=".nan")), "no finite number"),
        (CARD.format(extra=INDEX.format(name="m", value="high")), "no finite number"),
        (CARD.format(extra=INDEX.replace("- name: {name}\n  results", "- results")), "cannot be"),
        ("---\n- a\n---\ntext", "cannot be read"),
        ("---\n---\ntext", "no metadata"),
        ("# A model", "no metadata"),
        (CARD.format(extra="") + "hf_" + "a1" * 17, "holds a token"),
        (CARD.format(extra="license: apache-2.0\n"), "says license twice"),
        (
            CARD.format(extra=INDEX.format(name="m", value="0.5\n      value: 0.9")),
            "says value twice",
        ),
        (CARD.format(extra="a: &x {b: 1}\nc: *x\n"), None),
        (CARD.format(extra="a0: &a0 [1]\n" + BOMB), "over 20 aliases"),
        (CARD.format(extra="") + "a\x00b", "control characters"),
        (CARD.format(extra="") + "```python\nimport timm\n", "has no end"),
        (CARD.format(extra="") + "````\n```\n````\n", None),
    ],
)
def test_cards(content: str, message: str | None) -> None:
    problems = card_problems(content.encode())
    if message is None:
        assert problems == []
    else:
        assert any(message in problem for problem in problems), problems


@pytest.fixture
def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """Write the card of the folder with results that are recorded of its weights."""
    metrics = {"colour": {"knn_top1": 0.5, "linear_top1": 0.625}}
    own = make_result(TOY.full_name, sha256(folder / MODEL_FILE), metrics=metrics)
    pixels = make_result("raw-pixels", metrics={"colour": {"knn_top1": 0.25}})
    monkeypatch.setattr("cassle_zoo.hub.publish.verify.read_results", lambda: [pixels, own])
    write_card(folder, [pixels, own])
    return [pixels, own]


def card_detail(folder: Path) -> str:
    return next(check.detail for check in verify_folder(folder) if check.name == "card")


@pytest.mark.parametrize(
    ("old", "new", "claim"),
    [
        ("      value: 0.5\n", "      value: 0.75\n", "colour knn_top1"),
        ("      name: linear_top1\n", "      name: linear_top5\n", "colour linear_top5"),
        ("| colour | knn_top1 | 0.5 | 0.25 |", "| colour | knn_top1 | 0.8 | 0.25 |", "colour knn"),
        ("| colour | knn_top1 | 0.5 | 0.25 |", "| colour | knn_top1 | 0.5 | 0.2 |", "colour knn"),
        ("## Limits", "| colour | knn_top5 | 0.9 |\n\n## Limits", "colour knn_top5"),
    ],
)
def test_forged_results(
    folder: Path, recorded: list[Result], old: str, new: str, claim: str
) -> None:
    assert failures(folder) == {}
    text = (folder / CARD_FILE).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (folder / CARD_FILE).write_text(text.replace(old, new), encoding="utf-8")
    found = failures(folder)
    assert found.keys() == {"card"}
    assert claim in found["card"] and "is not what eval/results recorded" in found["card"]


def test_a_card_may_be_edited_but_that_is_said(folder: Path, recorded: list[Result]) -> None:
    assert card_detail(folder).endswith("as generated")
    text = (folder / CARD_FILE).read_text(encoding="utf-8")
    (folder / CARD_FILE).write_text(text.replace("ORG/NAME", "some/one"), encoding="utf-8")
    assert card_detail(folder).endswith("as generated")
    (folder / CARD_FILE).write_text(text + "\nMore words.\n", encoding="utf-8")
    assert failures(folder) == {}
    assert card_detail(folder).endswith("not the generated text")


def test_the_card_of_a_bundled_model_is_the_generated_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = folder.rename(folder.parent / TOY.full_name)
    monkeypatch.setattr(model_folder, "WEIGHTS_ROOT", bundled.parent)
    monkeypatch.setitem(MODEL_SPECS, TOY.full_name, replace(TOY, sha256=None))
    assert failures(bundled) == {}
    with (bundled / CARD_FILE).open("a") as card:
        card.write("\nMore words.\n")
    assert "not the card of this version; reinstall" in failures(bundled)["card"]


def test_results_of_other_weights_are_the_authors_own_claim(
    folder: Path, recorded: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cassle_zoo.hub.publish.verify.read_results", lambda: recorded[:1])
    assert failures(folder) == {}


def test_a_reference_without_images(folder: Path) -> None:
    path = folder / "reference.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file({key: value[:0] for key, value in load(path.read_bytes()).items()}, path, header)
    assert "holds no images" in failures(folder)["reference"]


def test_settings_that_are_not_the_models(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(global_pool="max"))
    write_reference(folder)
    assert "says global_pool 'max', but the model's is 'avg'" in failures(folder)["backbone"]


def test_a_card_that_is_no_text() -> None:
    assert "not UTF-8" in card_problems(b"---\n\xff")[0]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "here").mkdir(parents=True)
    assert model_name("org/name") == "hf-hub:org/name"
    assert model_name("org/name@v1") == "hf-hub:org/name@v1"
    assert model_name("org/name", "v1") == "hf-hub:org/name@v1"
    assert model_name("org/here") == "local-dir:org/here"
    assert model_name("resnet18_cassle_simclr") == "resnet18_cassle_simclr"
    assert model_name("hf-hub:org/here") == "hf-hub:org/here"
    with pytest.raises(ConfigError, match="is a folder"):
        model_name("org/here", "v1")
    with pytest.raises(ConfigError, match="names a revision already"):
        model_name("org/name@v1", "v2")


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hub", "verify", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in ALL]
    (folder / CARD_FILE).unlink()
    assert main(["hub", "verify", str(folder)]) == 1
    assert "FAILED card       " in capsys.readouterr().out
    (folder / CONFIG_FILE).write_text("{}")
    assert main(["hub", "verify", str(folder)]) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("NO_SUCH_NAME", "Unknown model"),
        ("resnet18_cassle_simclr.nothing", "Unknown tag"),
        ("resnet50_cassle_simclr.in100", "cassle-zoo train"),
        ("local-dir:nowhere", "is not a folder"),
        ("hf-hub:nowhere", "is incomplete"),
        (".../...", "is not the name of a Hub repository"),
    ],
)
def test_what_names_nothing_is_no_failed_check(
    name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hub", "verify", name]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert not captured.out
