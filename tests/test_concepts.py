"""The figures of docs/concepts/ are what their code draws, and the pages name their numbers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cassle_zoo.augmentation.descriptors import PAPER_DESCRIPTORS, DescriptorLayout

pytest.importorskip("matplotlib")

from docs.figures.__main__ import CONCEPTS, FIGURES, main

RECORDED: dict[str, Any] = json.loads((CONCEPTS / "numbers.json").read_text("utf-8"))


def page(name: str) -> str:
    return (CONCEPTS / f"{name}.md").read_text("utf-8")


def labels(path: Path) -> list[str]:
    """All text of a figure, without numbers, whose last digit other hardware may round."""
    found = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text("utf-8"))
    return [re.sub(r"[−-]?\d+\.\d+", "0.0", text) for text in found]


def same(found: Any, recorded: Any) -> bool:
    """Whether two structures hold the same, numbers up to what other hardware changes."""
    if isinstance(recorded, dict):
        return found.keys() == recorded.keys() and all(
            same(found[key], recorded[key]) for key in recorded
        )
    if isinstance(recorded, list):
        return len(found) == len(recorded) and all(map(same, found, recorded))
    return bool(
        found == (pytest.approx(recorded, abs=0.005) if recorded != str(recorded) else recorded)
    )


def test_the_figures_are_what_is_drawn(tmp_path: Path) -> None:
    assert same(main(tmp_path), RECORDED)
    for name in FIGURES:
        assert labels(tmp_path / f"{name}.svg") == labels(CONCEPTS / f"{name}.svg") != []


def test_each_figure_is_on_a_page_with_words_for_who_cannot_see_it() -> None:
    shown = re.findall(
        r"!\[([^\]]{40,})\]\((\w+)\.svg\)",
        "".join(map(page, ("omega", "conditioning", "whitening"))),
    )
    assert sorted(name for _, name in shown) == sorted(FIGURES)


def test_omega_names_its_numbers() -> None:
    text, numbers = page("omega"), list(RECORDED["omega"].values())
    layout = DescriptorLayout(PAPER_DESCRIPTORS)
    for name, width in layout.widths.items():
        assert f"| `{name}` | {width} |" in text
    centre_x = layout.slices()["crop"].start + 1
    assert f"({numbers[1][centre_x]:.2f} and {numbers[2][centre_x]:.2f} above)" in text
    assert numbers[1][centre_x] + numbers[2][centre_x] == 1


def test_conditioning_names_its_numbers() -> None:
    text, numbers, widths = page("conditioning"), RECORDED["conditioning"], RECORDED["projector"]
    colour = dict(zip(numbers["steps"], numbers["color"]["projections"], strict=True))
    assert max(colour, key=lambda step: colour[step]) == 1  # the right omega
    for value in (colour[1], colour[0], colour[-1], numbers["color"]["features"]):
        assert f"{value:.2f}" in text
    crop = dict(zip(numbers["steps"], numbers["crop"]["projections"], strict=True))
    assert f"from {crop[0]:.2f} to {crop[1]:.2f}" in text
    assert f"the {numbers['images']} sample images" in text
    first, last = widths["projector"][0], widths["projector"][-1]
    assert f"to {widths['features']} features" in text
    assert f"concatenated to {first} and projected to {last}" in text


def test_whitening_names_its_numbers() -> None:
    text, numbers = page("whitening"), RECORDED["whitening"]
    cassle, simclr = (numbers[label] for label in ("CASSLE", "SimCLR"))
    for task, values in cassle["knn"].items():
        shown = [f"{value:.1f}" for value in (*values, *simclr["knn"][task])]
        assert f"| {task.replace('_', ' ')} | {' | '.join(shown)} |" in text
    eight = [100 * sum(found["variance"][:8]) for found in (cassle, simclr)]
    assert f"hold {eight[0]:.0f} % of" in text
    assert f"features and {eight[1]:.0f} % of SimCLR's" in text
