"""Runs evaluators: a source of features on a dataset gives a `Result`, ready to be recorded."""

import time
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from cassle_zoo.eval.base import Compute, EvalContext, EvalData, Evaluator, Outcome
from cassle_zoo.eval.sources import FeatureSource, open_source
from cassle_zoo.records import (
    MeasuredData,
    MeasuredModel,
    Result,
    now_utc,
    software_versions,
)

DECIMALS = 6


def evaluate(
    task: str,
    evaluator: Evaluator,
    model: str | nn.Module | FeatureSource,
    data: EvalData,
    compute: Compute | None = None,
    *,
    command: str = "",
) -> tuple[Result, Outcome]:
    """Measure one source.

    Args:
        task: Name of the evaluator, for the result.
        evaluator: What to measure.
        model: What to measure it of; see `cassle_zoo.eval.sources.open_source`.
        data: What to measure it on.
        compute: How to compute.
        command: The command that repeats the measurement.

    Returns:
        The result, and the outcome with the files that belong beside the result.

    Raises:
        DataError: If the data cannot be used.
        ConfigError: If settings, source and data do not fit together.
        UnknownNameError: If there is no such model.
        WeightsUnavailableError: If nobody has published the model's weights.
    """
    compute = compute or Compute()
    source = model if isinstance(model, FeatureSource) else open_source(model, seed=compute.seed)
    context = EvalContext(source, data, compute)
    started = time.perf_counter()
    outcome = evaluator.evaluate(context)
    result = Result(
        task=task,
        model=MeasuredModel(name=source.name, sha256=source.sha256),
        data=MeasuredData(name=data.name, sha256=data.sha256),
        protocol={"input": _input(context), **data.notes, **outcome.protocol},
        metrics={
            name: {metric: round(value, DECIMALS) for metric, value in values.items()}
            for name, values in outcome.metrics.items()
        },
        series={
            name: [round(value, DECIMALS) for value in values]
            for name, values in outcome.series.items()
        },
        seed=compute.seed,
        versions=software_versions(),
        command=command,
        seconds={"total": round(time.perf_counter() - started, 1)},
        created=now_utc(),
    )
    return result, outcome


def _input(context: EvalContext) -> str:
    """Describe what the network sees."""
    if context.source.model is None:
        return "features from a file"
    tensor: Tensor = context.transform(context.data.images[0][0])
    channels, height, width = tensor.shape
    steps = [f"{channels}x{height}x{width}, fp32"]
    for step in getattr(context.transform, "transforms", ()):
        if hasattr(step, "mean"):
            steps.append(f"mean ({_numbers(step.mean)}), std ({_numbers(step.std)})")
    return "; ".join(steps)


def _numbers(values: Iterable[Any]) -> str:
    return ", ".join(f"{float(value):g}" for value in values)
