"""The results recorded in `eval/results`, of the zoo's models and of baselines, for cards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cassle_zoo.common.markdown import inline
from cassle_zoo.records import Result
from cassle_zoo.specs import RANDOM_INIT, RAW_PIXELS

RESULTS_FOLDER = Path(__file__).resolve().parents[2] / "eval" / "results"


def read_results(folder: Path = RESULTS_FOLDER) -> list[Result]:
    """Read all recorded results of a folder, in the order of their file names.

    Raises:
        DataError: If a file is not a result.
    """
    return [Result.load(path) for path in sorted(folder.glob("*.json"))]


def own_and_baselines(name: str, architecture: str, results: Sequence[Result]) -> list[Result]:
    """Choose the results of a model, and those of the baselines beside it.

    Args:
        name: Full name of the model.
        architecture: timm's name of its backbone.
        results: Any results.

    Returns:
        Those of the model, of raw pixels, and of the random initialisation of its architecture.
    """
    names = (name, RAW_PIXELS, RANDOM_INIT + architecture)
    return [result for result in results if result.model.name in names]


def settings_lines(training: Mapping[str, Any]) -> dict[str, str]:
    """Return each section of a training's settings on one line, by name."""
    return {
        section: inline(
            ", ".join(f"{key}={value}" for key, value in values.items())
            if isinstance(values, Mapping)
            else values
        )
        for section, values in training.get("config", {}).items()
    }
