import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from results import make_result
from tiny_model_folder import TinyBackbone

from cassle_zoo.cli.main import main
from cassle_zoo.common.errors import DataError, ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.features.whitening import Whitening
from cassle_zoo.hub.cards.card import (
    REPOSITORY,
    bundled_cards,
    render_card,
    results_of_folder,
    settings_lines,
    write_card,
)
from cassle_zoo.hub.cards.check import card_problems
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig
from cassle_zoo.records import Result
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.folder import MODEL_FILE, WHITENING_FILE, read_config
from cassle_zoo.store.tensors import save_model_folder
from cassle_zoo.zoo.registry import make_config

NAME = "resnet18_cassle_simclr.emoji64"
TRAINING = {
    "data": "emoji64",
    "config": {"optim": {"epochs": 25, "base_lr": 0.24}, "name": NAME},
    "steps": 1700,
    "cassle_zoo": "0.1.0",
    "commit": "0123abcd",
}


def make_folder(folder: Path, **projector: Any) -> Path:
    config = ProjectorConfig(in_features=16, encoder_depth=2, **projector)
    backbone = TinyBackbone()
    return save_model_folder(
        folder,
        config=make_config(MODEL_SPECS[NAME], backbone, projector=config, training=TRAINING),
        backbone_state=backbone.state_dict(),
        projector=ConditionedProjector(config),
        dtype=torch.float16,
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("card") / "model")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def result(folder: Path, **changes: Any) -> Result:
    """What `cassle-zoo eval emoji64` records."""
    values = {
        "sha256": sha256(folder / MODEL_FILE),
        "data_sha256": "7435a21e",
        "protocol": {
            "input": "3x64x64",
            "k-NN": {"k": 20, "temperature": 0.07},
            "linear probe": "L-BFGS",
            "retrieval": "cosine",
        },
        "metrics": {
            "skin_tone": {"knn_top1": 0.731, "linear_top1": 0.8125},
            "flags": {"recall@1": 0.9, "mAP": 0.875},
        },
        "command": "cassle-zoo eval emoji64 MODEL --data emoji64.tar",
    }
    return make_result(**{"name": NAME, **values, **changes})


def test_the_card_has_what_a_user_asks(folder: Path) -> None:
    card = ModelCard.load(write_card(folder))
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.eval_results is None
    for text in (
        'timm.create_model("hf-hub:ORG/NAME", pretrained=True)',
        'cassle_zoo.extract_features("hf-hub:ORG/NAME"',
        'cassle_zoo.create_projector("hf-hub:ORG/NAME", pretrained=True)',
        "`local-dir:DIR` in place of",
        "cassle-zoo hub verify hf-hub:ORG/NAME",
        "(batch, 13)",
        f"pip install git+{REPOSITORY}",
        "| 0 | `blur` | sigma of the Gaussian blur in pixels; 0 if there was none |",
        "| 8 | `crop` | centre y of the crop, as a fraction of the image's height |",
        "| 12 | `grayscale` | 1 if",
        "Twemoji graphics CC-BY 4.0",
        f"cassle-zoo train {NAME} --data emoji64.tar --out RUN",
        "npm pack emoji-datasource-google@16.0.0",
        "python -m cassle_zoo.data.emoji64_build *.tgz -o emoji64.tar",
        "epochs=25, base_lr=0.24",
        "cassle_zoo 0.1.0",
        "0123abcd",
        "## Limits",
        "arXiv:2306.06082",
        "Knowledge-Based Systems",
        "version = {0.1.0}",
        f"url     = {{{REPOSITORY}}}",
    ):
        assert text in card.text, text
    assert "## Results" not in card.text


def test_its_python_examples_are_python(folder: Path) -> None:
    text = ModelCard.load(write_card(folder)).text
    examples = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(examples) == 3
    for example in examples:
        compile(example, "card", "exec")


@pytest.mark.parametrize(("channels", "modes"), [(1, ["L"]), (3, ["RGB"]), (4, ["RGBA"]), (5, [])])
def test_the_example_for_timm_is_of_the_models_channels(
    folder: Path, channels: int, modes: list[str]
) -> None:
    config = read_config(folder)
    config["pretrained_cfg"]["input_size"] = [channels, 64, 64]
    text = render_card(config).text
    assert re.findall(r'convert\("(\w+)"\)', text) == modes
    assert ("With timm alone" in text) == ("Image.open" in text) == bool(modes)
    assert "cassle_zoo.extract_features" in text


def test_results_round_trip_through_the_metadata(folder: Path) -> None:
    recorded = Result.from_json(result(folder).to_json())
    card = ModelCard.load(write_card(folder, [recorded]))
    assert card.data.model_name == NAME
    found = {
        (r.dataset_config, r.metric_name): (r.metric_type, r.metric_value)
        for r in card.data.eval_results
    }
    assert found == {
        ("skin_tone", "knn_top1"): ("accuracy", 0.731),
        ("skin_tone", "linear_top1"): ("accuracy", 0.8125),
        ("flags", "recall@1"): ("recall", 0.9),
        ("flags", "mAP"): ("mean_average_precision", 0.875),
    }
    first = card.data.eval_results[0]
    assert first.metric_args == {"k-NN": {"k": 20, "temperature": 0.07}}
    assert card.data.eval_results[-1].metric_args == {"retrieval": "cosine"}
    assert (first.dataset_name, first.dataset_revision) == ("emoji64", "7435a21e")
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    for text in ("| skin_tone | linear_top1 | 0.8125 |", "seed 0", recorded.command, "k': 20"):
        assert text in card.text, text


def test_metrics_stand_beside_baselines_that_were_measured_in_the_same_way(folder: Path) -> None:
    def baseline(name: str, value: float, **changes: Any) -> Result:
        metrics = {"flags": {"recall@1": value}}
        return result(folder, name=name, sha256=None, metrics=metrics, **changes)

    own = result(folder)
    others = [
        baseline(
            "raw-pixels",
            0.5,
            protocol={**own.protocol, "input": "3x16x16", "chosen lr": "0.1"},
        ),
        baseline("random-init:resnet18", 0.25),
        baseline("random-init:resnet50", 0.125),
    ]
    text = ModelCard.load(write_card(folder, [*others, own])).text
    assert "| task | metric | this model | raw-pixels | random-init:resnet18 |" in text
    assert "| flags | recall@1 | 0.9 | 0.5 | 0.25 |" in text
    assert "| skin_tone | linear_top1 | 0.8125 | - | - |" in text
    for changes in ({"seed": 1}, {"data_sha256": "y"}, {"protocol": {"a": "b"}}):
        other = baseline("raw-pixels", 0.5, **changes)
        card = ModelCard.load(write_card(folder, [own, other]))
        assert "| task | metric | this model |\n" in card.text
        assert len(card.data.eval_results) == 4


def test_metrics_that_the_hub_does_not_know_keep_their_names(folder: Path) -> None:
    metrics = {"spectrum": {"rankme": 41.5}}
    card = ModelCard.load(write_card(folder, [result(folder, metrics=metrics)]))
    assert [r.metric_type for r in card.data.eval_results] == ["rankme"]


def test_the_repository_is_the_one_that_the_readme_and_the_citation_name() -> None:
    root = Path(__file__).parents[3]
    assert f"git clone {REPOSITORY} " in (root / "README.md").read_text("utf-8")
    assert f'repository-code: "{REPOSITORY}"' in (root / "CITATION.cff").read_text("utf-8")


def test_the_same_input_gives_the_same_card(folder: Path) -> None:
    config = read_config(folder)
    assert str(render_card(config)) == str(render_card(config))
    assert write_card(folder).read_text(encoding="utf-8") == str(render_card(config))


def test_writing_a_card_leaves_the_other_files(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()} | {"README.md"}
    write_card(folder)
    write_card(folder)
    assert {path.name for path in folder.iterdir()} == before


def test_results_of_other_weights_are_refused(folder: Path) -> None:
    other = result(folder, sha256="00")
    with pytest.raises(ModelFolderError, match=r"sha256 00, but .*evaluate the folder again"):
        write_card(folder, [other])
    assert not (folder / "README.md").exists()


def test_the_baseline_says_that_it_is_unconditioned(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", conditioning="none", descriptors=())
    text = ModelCard.load(write_card(folder)).text
    assert "baseline of CASSLE" in text
    assert "projections = projector(features)\n" in text
    assert "React to colour" not in text


def test_a_whitening_is_explained_where_there_is_one(folder: Path) -> None:
    assert "whiten" not in write_card(folder).read_text("utf-8")
    width = read_config(folder)["num_features"]
    features = torch.randn(40, width, generator=torch.Generator().manual_seed(0))
    Whitening.fit(features, 3).save(folder / WHITENING_FILE)
    text = write_card(folder).read_text("utf-8")
    assert "to 3 principal components of equal variance, fitted to 40 images" in text
    assert 'whiten="model"' in text


def test_a_backbone_without_projector_has_no_projector_section(folder: Path) -> None:
    config = read_config(folder)
    config["cassle_zoo"] |= {"projector": None, "descriptors": []}
    assert "projector.safetensors" not in render_card(config).text


def test_unknown_data_and_odd_text_do_not_break_the_card(folder: Path) -> None:
    config = read_config(folder)
    config["cassle_zoo"]["training"] = {
        "data": "my\n---\n# photos | €",
        "data_license": "mine: 'all rights'",
        "notes": "a\n\n## Heading",
        "steps": "5\n\n## Steps",
        "total_steps": 9,
        "command": "cassle-zoo train x --out '\n```\n## Out\n````'",
    }
    config["cassle_zoo"]["name"] = "x: {y}\n- z"
    card = ModelCard(str(render_card(config, results=[result(folder)])))
    data: Any = card.data
    assert data.model_name == "x: {y}\n- z"
    assert "- Data: my --- # photos \\| €" in card.text
    assert "- Licence of the data: mine: 'all rights'" in card.text
    assert "\n## Heading" not in card.text
    assert "\n## Steps" not in card.text
    assert "`````sh\ncassle-zoo train x --out '\n```\n## Out\n````'\n`````\n" in card.text


def test_a_released_model_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(folder)
    unreleased = dataclasses.replace(MODEL_SPECS[NAME], sha256=None)
    monkeypatch.setitem(MODEL_SPECS, NAME, unreleased)
    assert f'by name: "{NAME}"' not in render_card(config).text
    released = dataclasses.replace(MODEL_SPECS[NAME], sha256={})
    monkeypatch.setitem(MODEL_SPECS, NAME, released)
    assert f'by name: "{NAME}"' in render_card(config).text


def test_bundled_cards_are_what_their_sources_say() -> None:
    cards = bundled_cards()
    released = [name for name, spec in MODEL_SPECS.items() if spec.released]
    assert [path.parent.name for path in cards] == released
    for path, text in cards.items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale; run `make docs`"


@pytest.mark.parametrize("path", bundled_cards())
def test_bundled_cards_answer_what_a_user_asks(path: Path) -> None:
    assert card_problems(path.read_bytes()) == []
    card = ModelCard.load(path)
    assert {r.metric_name for r in card.data.eval_results} >= {"linear_top1", "knn_top1"}
    assert all(r.metric_args for r in card.data.eval_results)
    for heading in ("Use", "Projector", "Training", "Results", "Limits", "Citation"):
        assert f"\n## {heading}\n" in card.text
    for text in ("timm.create_model(", "create_projector(", "Licence of the data", "Commit:"):
        assert text in card.text
    assert "cassle-zoo train " in card.text or "python -m benchmarks.study " in card.text
    assert "python -m cassle_zoo.data.emoji64_build" in card.text


def test_results_of_these_weights_and_of_baselines_are_chosen(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    results = tmp_path / "results"
    result(folder, metrics={"t": {"knn_top1": 0.123}}).save(results / "deep" / "own.json")
    raw = {"sha256": None, "metrics": {"t": {"knn_top1": 0.045}}}
    result(folder, name="raw-pixels", **raw).save(results / "raw.json")
    result(folder, name="another", sha256="0" * 64).save(results / "other.json")
    (results / "notes.json").write_text("{}")
    assert main(["hub", "card", str(folder), "--results", str(results)]) == 0
    text = (folder / "README.md").read_text()
    assert "0.123" in text and "0.045" in text and "another" not in text
    assert not card_problems(text.encode())
    with pytest.raises(DataError, match=r"notes\.json"):
        results_of_folder(folder, [results / "notes.json"])
    with pytest.raises(ModelFolderError, match=r"none of 1 results \(of another\).*local-dir:"):
        results_of_folder(folder, [results / "other.json"])


def test_values_that_are_no_fractions_are_not_called_so(folder: Path) -> None:
    config = read_config(folder)
    spectrum = result(folder, task="spectrum", metrics={"spectrum": {"rankme": 40.5}})
    assert "All values are fractions" not in str(render_card(config, results=[spectrum]))
    assert "All values are fractions" in str(render_card(config, results=[result(folder)]))


def test_settings_that_are_unset_are_left_out() -> None:
    views = {"count": 2, "second": {"hue": None, "p_of": []}, "local": {"size": 96, "hue": None}}
    config = {"init": "", "method": {"depth": 2, "hidden": None}, "views": views}
    assert settings_lines({"config": config}) == {
        "method": "depth=2",
        "views": "count=2, local=(size=96)",
    }
