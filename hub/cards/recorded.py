"""The results recorded in `eval/results`: of the zoo's models, and of what they stand beside."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.specs import RANDOM_INIT, RAW_PIXELS

RESULTS_FOLDER = Path(__file__).resolve().parents[2] / "eval" / "results"

Result = Mapping[str, Any]

# Parts of a protocol about the features themselves, which differ between any two models.
_OF_THE_FEATURES = ("input", "chosen")


def read_results(folder: Path = RESULTS_FOLDER) -> list[Result]:
    """Read all recorded results of a folder, in the order of their file names.

    Raises:
        ModelFolderError: If a file is not JSON.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ModelFolderError(f"{path} is not JSON: {error}") from error
    return results


def is_baseline(result: Result) -> bool:
    """Return whether a result is of raw pixels or of an untrained network."""
    name = result["model"]["name"]
    return bool(name == RAW_PIXELS or name.startswith(RANDOM_INIT))


def own_and_baselines(name: str, architecture: str, results: Sequence[Result]) -> list[Result]:
    """Choose the results of a model, and those of what stands beside it.

    Args:
        name: Full name of the model.
        architecture: timm's name of its backbone.
        results: Any results.

    Returns:
        Those of the model, of raw pixels, and of the random initialisation of its architecture.
    """
    names = (name, RAW_PIXELS, RANDOM_INIT + architecture)
    return [result for result in results if result["model"]["name"] in names]


def is_comparable(one: Result, other: Result) -> bool:
    """Return whether two results were measured in the same way on the same data."""

    def how(result: Result) -> dict[str, Any]:
        return {k: v for k, v in result["protocol"].items() if not k.startswith(_OF_THE_FEATURES)}

    return bool(
        one["task"] == other["task"]
        and one["data"] == other["data"]
        and one["seed"] == other["seed"]
        and how(one) == how(other)
    )
