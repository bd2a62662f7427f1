import dataclasses
from pathlib import Path

import pytest
from results import make_result

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.hub.cards import model_cards as cards
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store import folder as model_folder

SPEC = dataclasses.replace(
    MODEL_SPECS["resnet18_cassle_simclr.emoji64"], sha256={"model.safetensors": "b" * 64}
)
WAITING = dataclasses.replace(MODEL_SPECS["resnet50_simclr.in100"], sha256=None)
CONFIGS = {
    SPEC.full_name: {
        "cassle_zoo": {
            "training": {
                "data": "emoji64",
                "commit": "abc",
                "steps": 12,
                "gpu": None,
                "config": {"optim": {"lr": 0.12, "epochs": 3}, "seed": 7},
            }
        }
    }
}


def result(name, value, sha256=None, seed=0):
    return make_result(
        name,
        sha256,
        seed=seed,
        metrics={
            "subcategory": {"linear_top1": value, "linear_top5": 0.9, "knn_top1": value / 2},
            "flags": {"recall@1": value},
        },
    )


RESULTS = [
    result(SPEC.full_name, 0.876, "b" * 64),
    result("raw-pixels", 0.412),
    result("random-init:resnet18", 0.321),
    result("random-init:resnet50", 0.234),
]


def test_document():
    text = cards.render_model_cards(RESULTS, [SPEC, WAITING], CONFIGS)
    comparison, section = text.split("\n## ")[1:3]
    rows = [line for line in comparison.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "random-init:resnet18",
        "random-init:resnet50",
        "raw-pixels",
        SPEC.full_name,
    ]
    assert "| 87.6 | 43.8 | - |" in rows[-1]
    assert section.startswith(SPEC.full_name)
    assert "b" * 64 in section
    assert f"cassle-zoo eval emoji64 {SPEC.full_name} --data emoji64.tar" in section
    assert f"cassle-zoo train {SPEC.full_name} --data emoji64.tar --out RUN" in section
    assert "lr=0.12, epochs=3" in section
    assert "- steps: 12" in section
    assert "gpu" not in section
    # Beside raw pixels and the random initialisation of the same architecture only.
    assert f"| task | metric | {SPEC.full_name} | raw-pixels | random-init:resnet18 |" in section
    assert "| flags | recall@1 | 87.6 | 41.2 | 32.1 |" in section
    assert WAITING.full_name not in section
    assert f"`{WAITING.full_name}`" in text.split("## Without published weights")[1]


def test_does_not_depend_on_the_order_of_results():
    texts = {
        cards.render_model_cards([*RESULTS[i:], *RESULTS[:i]], [SPEC], CONFIGS).split("\n### ")[0]
        for i in range(4)
    }
    assert len(texts) == 1


def test_nothing_recorded():
    text = cards.render_model_cards([], [WAITING], {})
    assert "Nothing has been recorded yet" in text


def test_mistakes_are_errors():
    with pytest.raises(ModelFolderError, match=r"no recorded result; run `cassle-zoo eval"):
        cards.render_model_cards(RESULTS[1:], [SPEC], CONFIGS)
    with pytest.raises(ModelFolderError, match=r"sha256 cccc.*evaluate it again"):
        cards.render_model_cards([result(SPEC.full_name, 0.9, "c" * 64)], [SPEC], CONFIGS)
    with pytest.raises(ModelFolderError, match=r"no config\.json"):
        cards.render_model_cards(RESULTS, [SPEC], {})


def test_a_model_that_is_on_the_hub_only():
    on_hub = dataclasses.replace(SPEC, hub_repo="org/name", hub_revision="c" * 40)
    text = cards.render_model_cards(RESULTS, [on_hub], {})
    assert f"`config.json` in `hf-hub:org/name@{'c' * 40}` says how" in text
    assert "| flags | recall@1 | 87.6 | 41.2 | 32.1 |" in text


def test_what_is_not_bundled_is_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(model_folder, "WEIGHTS_ROOT", tmp_path)
    monkeypatch.setattr(
        cards,
        "MODEL_SPECS",
        {SPEC.full_name: dataclasses.replace(SPEC, hub_repo="org/name", hub_revision="c" * 40)},
    )
    assert "The weights are not bundled" in cards.current_text(RESULTS)


def test_values_cannot_break_tables():
    text = cards.render_model_cards([result("a|b\nc", 0.5)], [], {})
    assert "| a\\|b c | 50.0 |" in text


@pytest.mark.parametrize("options", [[], ["--bundled"]])
def test_freshness(tmp_path, monkeypatch, capsys, options):
    document, readme = tmp_path / "MODEL_CARDS.md", tmp_path / "README.md"
    monkeypatch.setattr(cards, "current_text", lambda: "# Fresh\n")
    monkeypatch.setattr(cards, "bundled_cards", lambda: {readme: "# Card\n"})
    paths = [document, readme] if options else [document]
    assert cards.main([*options, "--check", str(document)]) == 1
    err = capsys.readouterr().err
    assert all(f"{path} is stale; run `make docs`" in err for path in paths)
    assert list(tmp_path.iterdir()) == []
    assert cards.main([*options, str(document)]) == 0
    assert set(tmp_path.iterdir()) == set(paths)
    assert cards.main([*options, "--check", str(document)]) == 0
    for path in paths:
        text = path.read_text()
        path.write_text("# Changed\n")
        assert cards.main([*options, "--check", str(document)]) == 1
        path.write_text(text)


def test_the_committed_document_is_fresh():
    document = Path(__file__).parents[3] / cards.DOCUMENT
    assert document.read_text("utf-8") == cards.current_text()
