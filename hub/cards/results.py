"""The part of a model card that holds recorded results."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.common.markdown import inline, shell_block
from cassle_zoo.hub.cards.recorded import is_baseline, is_comparable

TASK_TYPE = "image-feature-extraction"
RESULT_FIELDS = ("task", "model", "data", "protocol", "metrics", "seed", "versions", "command")


def results_section(results: Sequence[Mapping[str, Any]]) -> str:
    """Write the section of recorded results; empty if there are none of the model.

    Args:
        results: Of the model, and of the baselines that stand beside it if they were measured in
            the same way.
    """
    baselines = [result for result in results if is_baseline(result)]
    blocks = []
    for result in results:
        if is_baseline(result):
            continue
        beside = [other for other in baselines if is_comparable(result, other)]
        protocol = "; ".join(f"{k} {inline(v)}" for k, v in result["protocol"].items())
        blocks.append(
            f"### {result['task']}\n\n"
            f"{_table([result, *beside])}\n\n"
            f"All values are shares of test data, within 0 and 1; one run.{_legend(beside)}\n\n"
            f"Protocol: {protocol}; seed {result['seed']}.\n"
            f"Data: {result['data']['name']}, sha256 `{result['data']['sha256']}`.\n\n"
            f"{shell_block(result['command'])}"
        )
    return "\n\n".join(["## Results", *blocks]) if blocks else ""


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    own, *beside = results
    lines = [["task", "metric", "this model", *(other["model"]["name"] for other in beside)]]
    lines.append(["---"] * len(lines[0]))
    for task, metric, value in _values(own):
        others = (other["metrics"].get(task, {}).get(metric) for other in beside)
        shown = ("-" if other is None else f"{other:.4g}" for other in others)
        lines.append([task, metric, f"{value:.4g}", *shown])
    return "\n".join("| " + " | ".join(map(inline, line)) + " |" for line in lines)


def _legend(beside: Sequence[Mapping[str, Any]]) -> str:
    if not beside:
        return ""
    return (
        " Measured in the same way: `raw-pixels`, the images shrunk to 16x16, and "
        "`random-init:`, the network before training."
    )


def check_result(result: Mapping[str, Any]) -> None:
    """Check that a recorded result has all fields, and finite numbers.

    Raises:
        ModelFolderError: If not.
    """
    missing = [key for key in RESULT_FIELDS if key not in result]
    if missing:
        raise ModelFolderError(
            f"a result lacks {', '.join(missing)}; record it anew with `cassle-zoo eval`."
        )
    for task, metric, value in _values(result):
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ModelFolderError(f"the result {task} {metric} is {value!r}, not a finite number.")


def _values(result: Mapping[str, Any]) -> Iterable[tuple[str, str, float]]:
    for task, metrics in result["metrics"].items():
        for metric, value in metrics.items():
            yield task, metric, value


def eval_results(results: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """Return the recorded results of the model itself as metadata of the card."""
    return [
        EvalResult(
            task_type=TASK_TYPE,
            task_name=f"{result['task']} {task}",
            dataset_type=result["data"]["name"],
            dataset_name=result["data"]["name"],
            dataset_config=task,
            dataset_split="test",
            dataset_revision=result["data"]["sha256"],
            metric_type=_metric_type(metric),
            metric_name=metric,
            metric_value=value,
            metric_args=_protocol_of(metric, result["protocol"]),
        )
        for result in results
        if not is_baseline(result)
        for task, metric, value in _values(result)
    ]


_METRIC_TYPES = {
    "recall": "recall",
    "mAP": "mean_average_precision",
    "top1": "accuracy",
    "top5": "accuracy",
    "mean_per_class": "accuracy",
    "accuracy": "accuracy",
}
_PROTOCOL_OF = {
    "linear": "linear probe",
    "knn": "k-NN",
    "recall": "retrieval",
    "mAP": "retrieval",
}


def _metric_type(metric: str) -> str:
    """Return what the Hub calls a metric; its own name if the Hub does not know it."""
    return next((kind for part, kind in _METRIC_TYPES.items() if part in metric), metric)


def _protocol_of(metric: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return what concerns a metric: the whole protocol at every metric would hide the values."""
    part = next((v for k, v in _PROTOCOL_OF.items() if metric.startswith(k)), "")
    return {part: protocol[part]} if part in protocol else dict(protocol)
