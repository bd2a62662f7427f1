"""Draw every figure of docs/concepts/ and write down the numbers that the pages name."""

import json
import sys
from pathlib import Path
from typing import Any

from docs.figures import conditioning, omega, projector, whitening
from docs.figures.style import save

CONCEPTS = Path(__file__).resolve().parents[1] / "concepts"
FIGURES = {
    "omega": omega,
    "projector": projector,
    "conditioning": conditioning,
    "whitening": whitening,
}
"""Each has `measure() -> numbers`, and `draw(numbers) -> figure`."""


def main(folder: Path = CONCEPTS) -> dict[str, Any]:
    """Write the figures as SVG, and `numbers.json`.

    Returns:
        The numbers, by figure.
    """
    numbers: dict[str, Any] = {}
    for name, figure in FIGURES.items():
        numbers[name] = figure.measure()
        save(figure.draw(numbers[name]), folder / f"{name}.svg")
    text = json.dumps(numbers, indent=1, ensure_ascii=False)
    (folder / "numbers.json").write_text(text + "\n", encoding="utf-8")
    return numbers


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
