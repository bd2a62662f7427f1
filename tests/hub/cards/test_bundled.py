from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from cassle_zoo.hub.cards import bundled
from cassle_zoo.hub.cards.check import card_problems
from cassle_zoo.specs import MODEL_SPECS


def test_bundled_cards_are_what_their_sources_say() -> None:
    cards = bundled.bundled_cards()
    released = [name for name, spec in MODEL_SPECS.items() if spec.released]
    assert [path.parent.name for path in cards] == released
    for path, text in cards.items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale; run `make docs`"


@pytest.mark.parametrize("path", bundled.bundled_cards())
def test_bundled_cards_answer_what_a_user_asks(path: Path) -> None:
    assert card_problems(path.read_bytes()) == []
    card = ModelCard.load(path)
    assert {r.metric_name for r in card.data.eval_results} >= {"linear_top1", "knn_top1"}
    assert all(r.metric_args for r in card.data.eval_results)
    for heading in ("Use", "Projector", "Training", "Results", "Limits", "Citation"):
        assert f"\n## {heading}\n" in card.text
    for text in ("timm.create_model(", "create_projector(", "Licence of the data", "Commit:"):
        assert text in card.text
    assert "cassle-zoo train " in card.text or "cassle-zoo reproduce study " in card.text
    assert "python -m cassle_zoo.data.emoji64_build" in card.text


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "README.md"
    monkeypatch.setattr(bundled, "bundled_cards", lambda: {path: "# Fresh\n"})
    assert bundled.main(["--check"]) == 1
    assert "is stale; run `make docs`" in capsys.readouterr().err
    assert not path.exists()
    assert bundled.main([]) == 0
    assert bundled.main(["--check"]) == 0
    assert path.read_text() == "# Fresh\n"
