"""Evaluate a backbone on emoji64: features once, then every task."""

import os
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from cassle_zoo.devices import pick_device
from cassle_zoo.errors import ConfigError, DataError
from cassle_zoo.eval import emoji64_tasks as tasks
from cassle_zoo.eval.emoji64 import EMOJI64_SHA256, Emoji64, Emoji64Train
from cassle_zoo.eval.knn import knn_predict
from cassle_zoo.eval.linear_probe import PROTOCOL, Labelled, linear_probe
from cassle_zoo.eval.results import Result, now_utc, software_versions
from cassle_zoo.eval.retrieval import recall_at_k
from cassle_zoo.eval.sources import open_source
from cassle_zoo.features import eval_transform, extract_features

KNN_K = 20
KNN_TEMPERATURE = 0.07
SWEEP_TOLERANCE = 1e-2
"""Of the fits among which w is chosen; a tighter one costs hours where w is tiny."""


def evaluate_emoji64(
    model: str | nn.Module,
    data: str | os.PathLike[str] | Emoji64,
    *,
    seed: int = 0,
    name: str | None = None,
    transform: Callable[[Image.Image], Tensor] | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> Result:
    """Measure a backbone on the five tasks of emoji64.

    Linear probe and k-NN on subcategory, skin tone and vendor; recall@1 on flags and identity.

    Args:
        model: A name, ``hf-hub:ORG/NAME``, ``local-dir:FOLDER``, ``random-init:ARCH``,
            ``raw-pixels``, or a module; see `cassle_zoo.eval.sources.open_source`.
        data: ``emoji64.tar``, the folder it unpacks to, or the opened data set.
        seed: Seed of a random initialisation. Nothing else is random.
        name: Name in the result of a module.
        transform: From picture to input tensor; by default what belongs to the model.
        batch_size: Pictures at a time; the numbers do not depend on it.
        num_workers: Processes that read pictures.
        device: Where to compute; by default a GPU if there is one.
        progress: Whether to show a progress bar; by default on a terminal.

    Returns:
        Metrics in [0, 1] by task: ``linear_top1``, ``linear_top5`` (with more than five classes),
        ``linear_mean_per_class`` and ``knn_top1``, or ``recall@1``.

    Raises:
        DataError: If the data set cannot be read or is too small, or features are not finite.
        UnknownNameError: If there is no such model.
        WeightsUnavailableError: If nobody has published the model's weights.
    """
    source = open_source(model, seed=seed, name=name)
    dataset = data if isinstance(data, Emoji64) else Emoji64.open(data)
    started = time.perf_counter()
    transform = transform or source.transform or eval_transform(source.model)
    features = _features(
        source.model, dataset, transform,
        batch_size=batch_size, num_workers=num_workers, device=device, progress=progress,
    )  # fmt: skip
    extracted = time.perf_counter()
    # float64 needs CPU or CUDA.
    compute = pick_device(device)
    features = features.to(compute if compute.type == "cuda" else "cpu")
    metrics: dict[str, dict[str, float]] = {}
    chosen: dict[str, float] = {}
    for task in tasks.CLASSIFICATION_TASKS:
        metrics[task], chosen[task] = _classify(features, dataset, task)
    for task in tasks.RETRIEVAL_TASKS:
        metrics[task] = {"recall@1": round(_recall(features, dataset, task), 6)}
    finished = time.perf_counter()
    sha256 = dataset.sha256
    return Result(
        task="emoji64",
        model={"name": source.name, "sha256": source.sha256},
        data={
            "name": "emoji64" if sha256 == EMOJI64_SHA256 else "emoji64 (modified)",
            "sha256": sha256,
        },
        protocol={
            "input": _describe_input(transform, dataset),
            "linear probe": ", ".join(
                f"{key}: {value}"
                for key, value in {**PROTOCOL, "tolerance of the sweep": SWEEP_TOLERANCE}.items()
            ),
            "validation": f"training pictures with {tasks.VALIDATION_RULE}",
            "chosen w": ", ".join(f"{task} {weight:.3g}" for task, weight in chosen.items()),
            "k-NN": f"cosine, k={KNN_K}, votes weighted exp(cosine / {KNN_TEMPERATURE})",
            "retrieval": "cosine, recall@1",
        },
        metrics=metrics,
        seed=seed,
        versions=software_versions(),
        command=_command(source.argument, source.name, data, seed),
        seconds={
            "features": round(extracted - started, 1),
            "tasks": round(finished - extracted, 1),
        },
        created=now_utc(),
    )


def format_table(results: Sequence[Result]) -> str:
    """Lay results out as a Markdown table: a row per model, a column per metric, in percent.

    Args:
        results: Results of one evaluation.

    Returns:
        The table, aligned, without a final newline.

    Raises:
        ConfigError: If there are no results.
    """
    if not results:
        raise ConfigError("there are no results to show.")
    columns = list(dict.fromkeys((t, m) for r in results for t, m in _values(r)))
    header = ["model", *(f"{task} {metric}" for task, metric in columns)]
    rows = [
        [str(r.model["name"]), *(_percent(_values(r).get(column)) for column in columns)]
        for r in results
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])], *rows]
    return "\n".join(
        "| " + " | ".join(_align(cell, widths[i], i) for i, cell in enumerate(line)) + " |"
        for line in lines
    )


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def _values(result: Result) -> dict[tuple[str, str], float]:
    return {(task, m): value for task, own in result.metrics.items() for m, value in own.items()}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _features(
    model: nn.Module, dataset: Emoji64, transform: Callable[[Image.Image], Tensor], **settings: Any
) -> Tensor:
    found = extract_features(model, Emoji64Train(dataset), transform=transform, **settings)
    if found.skipped:
        first = found.skipped[0]
        raise DataError(
            f"emoji64: {len(found.skipped)} pictures cannot be read, the first is "
            f"{first.source}: {first.reason}"
        )
    return found.features


def _classify(features: Tensor, dataset: Emoji64, task: str) -> tuple[dict[str, float], float]:
    """Return the metrics of a classification task, and the w that the probe chose."""
    part = tasks.classification(dataset.records, task)
    labels = torch.tensor(part.labels, device=features.device)

    def select(*groups: tuple[int, ...]) -> Labelled:
        rows = torch.tensor([index for group in groups for index in group], device=labels.device)
        return Labelled(features=features[rows], labels=labels[rows])

    test = select(part.test)
    classes = len(part.classes)
    probe = linear_probe(
        select(part.train),
        select(part.val),
        test,
        num_classes=classes,
        sweep_tolerance=SWEEP_TOLERANCE,
    )
    gallery = select(part.train, part.val)
    predicted = knn_predict(
        gallery.features,
        gallery.labels,
        test.features,
        num_classes=classes,
        k=KNN_K,
        temperature=KNN_TEMPERATURE,
    )
    metrics = {
        "linear_top1": probe.top1,
        "linear_top5": probe.top5,
        "linear_mean_per_class": probe.mean_per_class,
        "knn_top1": float((predicted == test.labels).double().mean()),
    }
    rounded = {key: round(value, 6) for key, value in metrics.items() if value is not None}
    return rounded, probe.best_weight


def _recall(features: Tensor, dataset: Emoji64, task: str) -> float:
    part = tasks.retrieval(dataset.records, task)
    labels = torch.tensor(part.labels, device=features.device)
    queries, gallery = list(part.queries), list(part.gallery)
    return recall_at_k(features[queries], labels[queries], features[gallery], labels[gallery])


def _describe_input(transform: Callable[[Image.Image], Tensor], dataset: Emoji64) -> str:
    channels, height, width = transform(dataset.image(0)).shape
    steps = [f"{channels}x{height}x{width}, fp32"]
    for step in getattr(transform, "transforms", ()):
        if hasattr(step, "mean"):
            steps.append(f"mean ({_numbers(step.mean)}), std ({_numbers(step.std)})")
    return "; ".join(steps)


def _numbers(values: Iterable[Any]) -> str:
    return ", ".join(f"{float(value):g}" for value in values)


def _command(
    argument: str | None, name: str, data: str | os.PathLike[str] | Emoji64, seed: int
) -> str:
    """Return what repeats the evaluation; of paths only the last part, as results are published."""
    path = "emoji64.tar" if isinstance(data, Emoji64) else Path(data).resolve().name
    if argument is None:
        return f"cassle_zoo.eval.run.evaluate_emoji64({name}, {path!r}, seed={seed})"
    return shlex.join(
        ["cassle-zoo", "eval", "emoji64", argument, "--data", path, "--seed", str(seed)]
    )
