"""The model card (README.md) of a model folder: its metadata, and the text from a template."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cassle_zoo.augmentation.descriptors import DescriptorLayout
from cassle_zoo.common.errors import DataError, ModelFolderError
from cassle_zoo.common.files import sha256, write_text
from cassle_zoo.common.markdown import inline, table
from cassle_zoo.common.templates import render
from cassle_zoo.features.whitening import Whitening
from cassle_zoo.records import Result, read_results
from cassle_zoo.specs import DATASETS, MODEL_SPECS, RANDOM_INIT, RAW_PIXELS
from cassle_zoo.store.folder import (
    CARD_FILE,
    MODEL_FILE,
    WHITENING_FILE,
    bundled_folder,
    read_config,
    refuse_link,
)
from cassle_zoo.version import __version__

CARD_REPO = "hf-hub:ORG/NAME"
"""Placeholder of the repository's name, which `hub push` fills in."""

REPOSITORY = "https://github.com/cassle-zoo/cassle-zoo"
TASK_TYPE = "image-feature-extraction"

_METRIC_TYPES = {
    "recall": "recall",
    "mAP": "mean_average_precision",
    "top1": "accuracy",
    "top5": "accuracy",
    "mean_per_class": "accuracy",
    "accuracy": "accuracy",
}
"""The Hub's name of a metric, by a part of its name here."""
_PROTOCOL_OF = {"linear": "linear probe", "knn": "k-NN", "recall": "retrieval", "mAP": "retrieval"}
"""The part of the protocol about a metric, by the prefix of its name."""
_FRACTIONS_ONLY = ("emoji64", "linear-probe", "knn", "few-shot", "semi-supervised", "finetune")
"""Evaluations whose values are all fractions of the test data."""
_UNSET = ("", "None", "[]", "()")  # texts of settings
_TRAINING_SHOWN_APART = (
    *("data", "data_license", "source", "cassle_zoo", "command", "config"),
    *("images", "init", "total_steps"),
)


def own_and_baselines(name: str, architecture: str, results: Sequence[Result]) -> list[Result]:
    """Return the results of a model and of the baselines it is compared with.

    Args:
        name: Full name of the model.
        architecture: timm's name of its backbone.
        results: Results to choose from.

    Returns:
        Those of the model, of raw pixels, and of the random initialisation of its architecture.
    """
    names = (name, RAW_PIXELS, RANDOM_INIT + architecture)
    return [result for result in results if result.model.name in names]


def settings_lines(training: Mapping[str, Any]) -> dict[str, str]:
    """Return each section of a training's settings on one line, by name, without what is unset."""
    lines = {name: fact_line(values) for name, values in training.get("config", {}).items()}
    return {name: line for name, line in lines.items() if line not in _UNSET}


def fact_line(value: Any) -> str:
    """Return on one line what a training recorded, without what is unset."""
    if not isinstance(value, Mapping):
        return inline(value)
    lines = {
        key: f"({fact_line(own)})" if isinstance(own, Mapping) else inline(own)
        for key, own in value.items()
    }
    return ", ".join(f"{inline(k)}={line}" for k, line in lines.items() if line not in _UNSET)


def write_card(folder: str | Path, results: Sequence[Result] = ()) -> Path:
    """Write the README.md of a model folder.

    Args:
        folder: The model folder.
        results: Recorded results of this model and of baselines to compare it with.

    Returns:
        The path of README.md.

    Raises:
        ModelFolderError: If the folder is not a model folder, its README.md is a link, or a result
            was measured with other weights.
    """
    path = Path(folder) / CARD_FILE
    refuse_link(path)
    write_text(path, _checked_card(Path(folder), results))
    return path


def results_of_folder(folder: str | Path, paths: Iterable[str | Path]) -> list[Result]:
    """Read recorded results, and choose those that belong in the card of a model folder.

    Args:
        folder: The model folder.
        paths: JSON files written by `cassle-zoo eval`, and folders that are searched for them at
            any depth.

    Returns:
        The results measured with the folder's weights, whatever the model was called, and those of
        baselines; others in a folder are skipped.

    Raises:
        ModelFolderError: If it is not a model folder, or no result was measured with its weights.
        DataError: If a path does not exist, or a file that is named is not a result.
    """
    read_config(folder)  # raises if it is not a model folder
    found: list[Result] = []
    for path in map(Path, paths):
        if path.is_dir():
            for file in sorted(path.rglob("*.json")):
                with contextlib.suppress(DataError):  # the folder may hold other files
                    found.append(Result.load(file))
        else:
            found.append(Result.load(path))
    weights = sha256(Path(folder) / MODEL_FILE)
    own = [result for result in found if result.model.sha256 == weights]
    if not own:
        names = ", ".join(sorted({r.model.name for r in found})) or "none"
        raise ModelFolderError(
            f"none of {len(found)} results (of {names}) was measured with the weights of {folder}, "
            f"sha256 {weights}; measure them: cassle-zoo eval TASK local-dir:{folder} --data PATH "
            "-o RESULTS."
        )
    return own + [result for result in found if result.is_baseline]


def bundled_cards() -> dict[Path, str]:
    """Return the README.md that each bundled model should have, by path.

    Raises:
        DataError: If a recorded result is malformed.
        ModelFolderError: If one was measured with other weights.
    """
    results = read_results()
    return {
        folder / CARD_FILE: _checked_card(folder, own_and_baselines(name, spec.timm_arch, results))
        for name, spec in MODEL_SPECS.items()
        if spec.released and (folder := bundled_folder(spec)).is_dir()
    }


def _checked_card(folder: Path, results: Sequence[Result]) -> str:
    config = read_config(folder)
    found = sha256(folder / MODEL_FILE)
    for result in results:
        if not result.is_baseline and result.model.sha256 != found:
            raise ModelFolderError(
                f"a result was measured with weights of sha256 {result.model.sha256}, but "
                f"{folder / MODEL_FILE} has {found}; evaluate the folder again."
            )
    return str(render_card(config, whitening=whitening_of(folder), results=results))


def whitening_of(folder: Path) -> Whitening | None:
    """Return the whitening in a model folder, if there is one.

    Raises:
        DataError: If it is damaged.
    """
    path = folder / WHITENING_FILE
    return Whitening.load(path) if path.is_file() else None


def render_card(
    config: Mapping[str, Any],
    *,
    whitening: Whitening | None = None,
    results: Sequence[Result] = (),
) -> ModelCard:
    """Build the model card.

    Args:
        config: Content of the folder's config.json.
        whitening: That of the folder, if there is one.
        results: Recorded results of this model, and of the baselines to compare it with: raw pixels
            and the random initialisation of this architecture. Other baselines, and those that were
            measured differently, are left out.

    Returns:
        The card, its metrics in the metadata (`model-index`) and in the text.
    """
    own = config["cassle_zoo"]
    training, projector = own["training"], own["projector"]
    measured = [result for result in results if not result.is_baseline]
    names = (RAW_PIXELS, RANDOM_INIT + config["architecture"])
    baselines = [result for result in results if result.model.name in names]
    metadata = ModelCardData(
        license=config["pretrained_cfg"].get("license", "unknown"),
        library_name="timm",
        pipeline_tag=TASK_TYPE,
        tags=[
            *("timm", TASK_TYPE, "self-supervised-learning"),
            *(["cassle"] if projector is not None else []),
            own["method"],
        ],
        model_name=own["name"],
        eval_results=[found for result in measured for found in _eval_results(result)] or None,
    )
    data = str(training.get("data"))
    command = str(training.get("command", ""))
    if not command and (own["name"] in MODEL_SPECS or "config" not in training):
        file = "emoji64.tar" if data == "emoji64" else "DATA"
        command = f"cassle-zoo train {own['name']} --data {file} --out RUN"
    text = render(
        "cassle_zoo.hub.cards",
        "card.md",
        metadata=metadata.to_yaml(),
        config=config,
        own=own,
        training=training,
        projector=projector,
        whitening=whitening,
        is_conditioned=projector is not None and projector.get("conditioning") != "none",
        released=own["name"] in MODEL_SPECS and MODEL_SPECS[own["name"]].released,
        repo=CARD_REPO,
        repository=REPOSITORY,
        columns=_columns(projector),
        dataset=DATASETS.get(data),
        is_emoji64=data == "emoji64",
        version=training.get("cassle_zoo", __version__),
        facts={
            key.replace("_", " ").capitalize(): fact_line(value)
            for key, value in training.items()
            if key not in _TRAINING_SHOWN_APART and value is not None
        },
        command=command,
        settings=settings_lines(training),
        results=[
            {
                "recorded": result,
                "beside": beside,
                "table": _table(result, beside),
                "all_fractions": result.task in _FRACTIONS_ONLY,
            }
            for result in measured
            for beside in [[other for other in baselines if result.is_comparable(other)]]
        ],
    )
    return ModelCard(text)


def _columns(projector: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return number, descriptor and meaning of each column of omega."""
    if projector is None:
        return []
    layout = DescriptorLayout(tuple(projector.get("descriptors", ())), projector.get("columns", {}))
    meanings = [(name, text) for name, texts in layout.meanings().items() for text in texts]
    return [
        (str(number), f"`{inline(name)}`", inline(text))
        for number, (name, text) in enumerate(meanings)
    ]


def _table(result: Result, beside: Sequence[Result]) -> str:
    rows = []
    for task, metric, value in _values(result):
        others = [other.metrics.get(task, {}).get(metric) for other in beside]
        cells = ["-" if other is None else f"{other:.4g}" for other in others]
        rows.append([inline(task), inline(metric), f"{value:.4g}", *cells])
    names = [inline(other.model.name) for other in beside]
    return table(["task", "metric", "this model", *names], rows)


def _values(result: Result) -> Iterable[tuple[str, str, float]]:
    for task, metrics in result.metrics.items():
        for metric, value in metrics.items():
            yield task, metric, value


def _eval_results(result: Result) -> list[EvalResult]:
    """Return a result as metadata of the card."""
    return [
        EvalResult(
            task_type=TASK_TYPE,
            task_name=f"{result.task} {task}",
            dataset_type=result.data.name,
            dataset_name=result.data.name,
            dataset_config=task,
            dataset_split="test",
            dataset_revision=result.data.sha256,
            metric_type=next((t for part, t in _METRIC_TYPES.items() if part in metric), metric),
            metric_name=metric,
            metric_value=value,
            metric_args=_protocol_of(metric, result.protocol),
        )
        for task, metric, value in _values(result)
    ]


def _protocol_of(metric: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part about a metric: the whole protocol at every metric would hide the values."""
    part = next((v for k, v in _PROTOCOL_OF.items() if metric.startswith(k)), "")
    return {part: protocol[part]} if part in protocol else dict(protocol)
