"""Evaluation of a source on a dataset, and recording of the result without replacing another."""

import contextlib
import dataclasses
import io
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from cassle_zoo.common.errors import ConfigError, DataError, StorageError
from cassle_zoo.common.files import check_folder, sha256, write_bytes
from cassle_zoo.common.images import UnreadableImageError
from cassle_zoo.eval.base import (
    Compute,
    EvalContext,
    EvalData,
    Evaluator,
    Outcome,
    UnreadableImagesError,
    leave_out,
)
from cassle_zoo.eval.batches import UnreadableDatasetImageError, read_image
from cassle_zoo.eval.scores import SCORES_FILE, ScoreFile, Scores
from cassle_zoo.eval.sources import FeatureSource, open_source
from cassle_zoo.records import (
    MeasuredData,
    MeasuredModel,
    Result,
    now_utc,
    software_versions,
)

DECIMALS = 6

_CHOSEN = "chosen"  # parts of a protocol that were found, not set
_STRENGTHS = "strength/"
_MARK = 8  # hexadecimal digits
_LONGEST = 80  # letters of a name in a file's name, which may have 255 in all
_MAP_IMAGES = 600
_MISTAKES = 48  # of a task
_THUMBNAIL = 64  # pixels of the long side
_COMPONENTS = 50


def evaluate(
    task: str,
    evaluator: Evaluator,
    model: str | nn.Module | FeatureSource,
    data: EvalData,
    compute: Compute | None = None,
    *,
    command: str = "",
    record: bool = False,
) -> tuple[Result, Outcome]:
    """Evaluate one model.

    Args:
        task: Name of the evaluator, for the result.
        evaluator: The evaluator.
        model: The model; see `cassle_zoo.eval.sources.open_source`.
        data: The dataset.
        compute: How to compute.
        command: The command that repeats the measurement.
        record: Whether the outcome's files include its scores, with thumbnails of images, for
            `eval report`.

    Returns:
        The result, and the outcome with the files to be written beside it.

    Raises:
        DataError: If the data cannot be used, or more than the allowed fraction of the images
            cannot be read.
        ConfigError: If settings, source and data do not fit together.
        UnknownNameError: If there is no such model.
        WeightsUnavailableError: If no weights of the model are published.
    """
    compute = compute or Compute()
    source = (
        model
        if isinstance(model, FeatureSource)
        else open_source(model, seed=compute.seed, size=compute.size)
    )
    context = EvalContext(source, data, compute)
    started = time.perf_counter()
    try:
        outcome = evaluator.evaluate(context)
    except UnreadableImagesError as error:
        count = len(error.reasons) + len(error.features)
        if error.data is not data or count < len(data.images):
            raise  # an evaluator's own data, or the test images of a network that was trained
        data = _without(data, error.reasons, compute)
        context = EvalContext(source, data, compute).with_features(error.features)
        outcome = evaluator.evaluate(context)
    except UnreadableDatasetImageError as error:  # while a network was training on the others
        name = data.name_of(int(error.source))
        raise UnreadableDatasetImageError(name, error.reason) from error
    except UnreadableImageError:
        # Evaluators that make views of images stop at the first unreadable one.
        data = _without(data, _unreadable(data, compute), compute)
        context = EvalContext(source, data, compute)
        outcome = evaluator.evaluate(context)
    result = Result(
        task=task,
        model=MeasuredModel(name=source.name, sha256=source.sha256),
        data=MeasuredData(name=data.name, sha256=data.sha256),
        protocol={**_model_of(context), **data.notes, **outcome.protocol},
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
    if record and outcome.scores:
        files = {**outcome.files, SCORES_FILE: score_file(context, outcome.scores).to_bytes()}
        outcome = dataclasses.replace(outcome, files=files)
    return result, outcome


def _without(data: EvalData, reasons: Mapping[int, str], compute: Compute) -> EvalData:
    """Leave out images that cannot be read, up to the allowed fraction."""
    bad = [(data.name_of(index), reason) for index, reason in reasons.items()]
    note = leave_out(data.name, bad, len(data.images), compute.max_bad_fraction)
    return data.without(list(reasons), note)


def _unreadable(data: EvalData, compute: Compute) -> dict[int, str]:
    """Read all images; return why those that cannot be read cannot, by index."""
    reasons: dict[int, str] = {}
    for index in compute.bar(range(len(data.images)), unit="img", desc="checking images"):
        try:
            read_image(data.images, index)
        except UnreadableImageError as error:
            reasons[index] = error.reason
    return reasons


def score_file(context: EvalContext, scores: Sequence[Scores]) -> ScoreFile:
    """Return the scores with names of their images, and a map and thumbnails of some of them.

    These are the most confident mistakes, and a sample that is the same for all models.

    Args:
        context: The context they were measured in.
        scores: The scores.
    """
    data = context.data
    of_images = [own for own in scores if own.unit != "episode"]
    if not of_images:
        return ScoreFile(scores=tuple(scores))
    rows = torch.cat([own.rows for own in of_images]).unique()
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    sample = rows[drawn[:_MAP_IMAGES]].sort().values
    shown = [sample, *(_confident_mistakes(own) for own in of_images)]
    thumbnails = {}
    for index in torch.cat(shown).unique().tolist():
        with contextlib.suppress(DataError):  # unreadable: a report does without it
            thumbnails[index] = _thumbnail(read_image(data.images, index))
    # Not extracted for the map alone.
    known = "features" in vars(context)
    return ScoreFile(
        scores=tuple(scores),
        names={index: data.names[index] for index in rows.tolist()} if data.names else {},
        thumbnails=thumbnails,
        sample=sample if known else sample[:0],
        sample_features=_principal(context.features[sample]) if known else torch.empty(0, 0),
    )


def _confident_mistakes(scores: Scores) -> Tensor:
    if scores.predicted is None or scores.confidence is None:
        return scores.rows[:0]
    return scores.rows[scores.by_confidence(scores.wrong)[:_MISTAKES]]


def _thumbnail(image: Image.Image) -> bytes:
    small = image.copy()  # thumbnail() works in place, and the dataset may hold this very image
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=75, method=4)
    return buffer.getvalue()


def _principal(features: Tensor) -> Tensor:
    """Return the first principal components (N, P), scaled so that the first has deviation 1."""
    centred = features.double() - features.double().mean(0)
    left, values, right = torch.linalg.svd(centred, full_matrices=False)
    count = min(_COMPONENTS, len(values))
    # Which way a component points is arbitrary: its largest weight is positive.
    largest = right[:count].gather(1, right[:count].abs().argmax(1, keepdim=True))[:, 0]
    found: Tensor = left[:, :count] * values[:count] * largest.sign()
    scale = values[0] / max(1, len(features) - 1) ** 0.5
    return found / scale if scale > 0 else found


def check_output(output: Path, models: int) -> None:
    """Check, before anything is computed, that the results of some models can be written.

    Args:
        output: `FILE.json` or a folder.
        models: Number of models.

    Raises:
        ConfigError: If they cannot.
    """
    if output.suffix != ".json":
        return check_folder(output, "-o")
    if models > 1:
        raise ConfigError(f"{output} is one file, but {models} models are measured; give a folder.")
    if output.is_dir():
        raise ConfigError(f"-o {output} ends in .json but is a folder; give it another name.")
    return check_folder(output.parent, "-o")


def measurement(result: Result) -> str:
    """Return a hash of everything that identifies a measurement, but not of its numbers."""
    strengths = {k: v for k, v in result.series.items() if k.startswith(_STRENGTHS)}
    what = [
        result.task,
        dataclasses.asdict(result.model),
        dataclasses.asdict(result.data),
        result.seed,
        {k: v for k, v in result.protocol.items() if not k.startswith(_CHOSEN)},
        sorted((task, metric) for task, own in result.metrics.items() for metric in own),
        sorted(result.series),
        strengths,
    ]
    return sha256(json.dumps(what, sort_keys=True))


def place_for(output: Path, result: Result) -> tuple[Path, str]:
    """Choose the file of a result.

    Args:
        output: `FILE.json`, or a folder, in which the file is named after task, data and model.
            If that file holds another measurement (other settings, weights, data or seed), a hash
            is added to the name.
        result: The result to be written.

    Returns:
        The file, and a remark about it for the user.
    """
    own = measurement(result)
    parts = (result.task, result.data.name, result.model.name)
    first = output
    if output.suffix != ".json":
        first = output / f"{'--'.join(slug(part)[:_LONGEST] for part in parts)}.json"
    if not first.exists():
        return first, "recorded"
    with contextlib.suppress(DataError):  # another file is another measurement
        if measurement(Result.load(first)) == own:
            return first, "recorded again"
    if first == output:
        return first, "recorded in place of another measurement"
    marked = first.with_name(f"{first.stem}--{own[:_MARK]}.json")
    again = " again" if marked.exists() else ""
    return marked, f"recorded{again} beside {first.name}, which is another measurement"


def write(path: Path, result: Result, outcome: Outcome) -> Result:
    """Write a result, and the files of its outcome beside it.

    Args:
        path: The JSON file.
        result: The result.
        outcome: Its outcome.

    Returns:
        The result as it is recorded: with the names of its files.

    Raises:
        StorageError: If it cannot be written.
    """
    files = {f"{path.stem}.{slug(name)}": content for name, content in outcome.files.items()}
    recorded = dataclasses.replace(result, files=list(files))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(path.with_name(name), content)
        recorded.save(path)
    except OSError as error:
        raise StorageError(f"cannot record {path}: {error.strerror or error}.") from error
    return recorded


def slug(text: str) -> str:
    """Replace everything but letters, digits and `._-`, for file names."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def _model_of(context: EvalContext) -> dict[str, str]:
    """Describe the network, if there is one, and its input."""
    source = context.source
    network = ", ".join(filter(None, [source.network, source.trained]))
    return {"input": _input(context), **({"network": network} if network else {})}


def _input(context: EvalContext) -> str:
    """Describe the network's input."""
    if context.source.model is None:
        return "features from a file"
    tensor: Tensor = context.transform(context.data.images[0][0])
    channels, height, width = tensor.shape
    steps = [f"{channels}x{height}x{width}, fp32"]
    for step in getattr(context.transform, "transforms", ()):
        way = getattr(step, "interpolation", None)
        if way is not None and (step.size, way) != (height, InterpolationMode.BICUBIC):
            steps.append(f"{type(step).__name__} to {step.size}, {getattr(way, 'value', way)}")
        if hasattr(step, "mean"):
            steps.append(f"mean ({_numbers(step.mean)}), std ({_numbers(step.std)})")
    return "; ".join(steps)


def _numbers(values: Iterable[Any]) -> str:
    return ", ".join(f"{float(value):g}" for value in values)
