"""The part of a model card that holds recorded results."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from cassle_zoo.errors import ArtifactError

TASK_TYPE = "image-feature-extraction"
RESULT_FIELDS = ("task", "model", "data", "protocol", "metrics", "seed", "command")


def results_section(results: Sequence[Mapping[str, Any]]) -> str:
    """Write the section of recorded results; empty if there are none."""
    blocks = []
    for result in results:
        rows = "\n".join(
            f"| {inline(task)} | {inline(metric)} | {value:.4g} |"
            for task, metric, value in _values(result)
        )
        protocol = "; ".join(f"{k} {inline(v)}" for k, v in result["protocol"].items())
        blocks.append(
            f"### {result['task']}\n\n"
            f"Protocol: {protocol}; seed {result['seed']}.\n"
            f"Data: {result['data']['name']}, sha256 `{result['data']['sha256']}`.\n\n"
            f"| task | metric | value |\n|---|---|---|\n{rows}\n\n"
            f"```sh\n{result['command']}\n```"
        )
    return "\n\n".join(["## Results", *blocks]) if blocks else ""


def check_result(result: Mapping[str, Any]) -> None:
    """Check that a recorded result has all fields, and finite numbers.

    Raises:
        ArtifactError: If not.
    """
    missing = [key for key in RESULT_FIELDS if key not in result]
    if missing:
        raise ArtifactError(
            f"a result lacks {', '.join(missing)}; record it anew with `cassle-zoo eval`."
        )
    for task, metric, value in _values(result):
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ArtifactError(f"the result {task} {metric} is {value!r}, not a finite number.")


def _values(result: Mapping[str, Any]) -> Iterable[tuple[str, str, float]]:
    for task, metrics in result["metrics"].items():
        for metric, value in metrics.items():
            yield task, metric, value


def eval_results(results: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """Return recorded results as metadata of the card."""
    return [
        EvalResult(
            task_type=TASK_TYPE,
            task_name=f"{result['task']} {task}",
            dataset_type=result["data"]["name"],
            dataset_name=result["data"]["name"],
            dataset_config=task,
            dataset_split="test",
            dataset_revision=result["data"]["sha256"],
            metric_type="accuracy" if "recall" not in metric else "recall",
            metric_name=metric,
            metric_value=value,
            metric_args=dict(result["protocol"]),
        )
        for result in results
        for task, metric, value in _values(result)
    ]


def inline(value: Any) -> str:
    """Write a value on one line, so that it cannot change the structure of the document."""
    return " ".join(str(value).replace("|", "\\|").split())
