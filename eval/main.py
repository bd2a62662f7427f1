"""`cassle-zoo eval`: an evaluator, with any setting overridden, on models side by side."""

import dataclasses
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from cassle_zoo.common.errors import CassleZooError, ConfigError, DataError, unknown_name
from cassle_zoo.eval.base import Compute, EvalData, Evaluator
from cassle_zoo.eval.command import public_command
from cassle_zoo.eval.datasets import DATASETS, open_data
from cassle_zoo.eval.feature_cache import FeatureCache
from cassle_zoo.eval.protocols import EVALUATORS
from cassle_zoo.eval.recording import check_folder, check_output, place_for, write
from cassle_zoo.eval.report import page as report
from cassle_zoo.eval.report.tables import format_table
from cassle_zoo.eval.runner import evaluate
from cassle_zoo.eval.sources import FORMS, open_source
from cassle_zoo.records import Result

REPORT = "report"
DEFAULT_DATASET = "emoji64"

Settings = TypeVar("Settings", bound=Evaluator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Generic[Settings]):
    """Arguments of the command.

    Attributes:
        models: Names, `hf-hub:ORG/NAME`, `local-dir:FOLDER`, `timm:NAME`, `random-init:ARCH`,
            `raw-pixels`, or `features:FILE`.
        data: Folder or archive that holds the dataset.
        dataset: Name of the dataset.
        download: Fetch the dataset into the folder if it is not there.
        output: Record the results: FILE.json for one model, or a folder for a file each. Images
            and pages are written beside them.
        compute: How to compute.
        settings: Settings of the evaluator.
    """

    models: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="MODEL...", help_behavior_hint="(required)"),
    ]
    data: Path
    dataset: str = DEFAULT_DATASET
    download: bool = False
    output: Annotated[
        Path | None,
        tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH", help_behavior_hint="(optional)"),
    ] = None
    compute: Annotated[Compute, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Compute)
    settings: Annotated[Settings, tyro.conf.arg(name="")]


def run_from_cli(argv: Sequence[str]) -> int:
    """Run `cassle-zoo eval ARGV...` and return its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == REPORT:
        return report.run_from_cli(argv[1:])
    if argv[0] not in EVALUATORS:
        raise unknown_name("evaluation", argv[0], (*EVALUATORS, REPORT))
    return run_evaluator(argv[0], argv[1:])


def run_evaluator(task: str, argv: Sequence[str]) -> int:
    """Run `cassle-zoo eval TASK ARGV...` and return its exit status."""
    evaluator = EVALUATORS[task]
    arguments = tyro.cli(
        Arguments[evaluator],  # type: ignore[valid-type]
        prog=f"cassle-zoo eval {task}",
        description=f"{_summary(evaluator)}\n\nData sets: {', '.join(DATASETS)}.",
        config=(tyro.conf.FlagCreatePairsOff,),
        args=list(argv),
    )
    models = tuple(dict.fromkeys(arguments.models))
    if len(models) < len(arguments.models):
        print("note: a model that is named twice is measured once", file=sys.stderr)
    _check(arguments, models)
    data = open_data(arguments.dataset, arguments.data, download=arguments.download)
    results: list[Result] = []
    try:
        for model in models:
            with _naming(model, among=models):
                _measure(task, model, data, arguments, results)
    finally:
        # Whatever becomes of the rest, what was found is shown.
        if results:
            print(format_table(results))
    return 0


def _check(arguments: Arguments[Any], models: Sequence[str]) -> None:
    """Check what can be checked before anything is computed: models, output and cache."""
    if not models:
        raise ConfigError(f"name at least one model to measure. {FORMS}")
    if arguments.dataset not in DATASETS:
        raise unknown_name("dataset", arguments.dataset, DATASETS)
    if arguments.output is not None:
        check_output(arguments.output, len(models))
    runs = False
    for model in models:
        with _naming(model, among=models):
            # Not kept, so that only one model at a time is in memory.
            runs |= open_source(model, seed=arguments.compute.seed).model is not None
    if runs and not arguments.compute.no_cache:
        folder = FeatureCache(arguments.compute.cache).folder
        check_folder(folder, "--cache FOLDER, or keep nothing with --no-cache")


def _measure(
    task: str, model: str, data: EvalData, arguments: Arguments[Any], results: list[Result]
) -> None:
    """Measure one model, add the result to `results`, and record it if asked to."""
    command = public_command(
        task,
        model,
        arguments.data,
        dataset=None if arguments.dataset == DEFAULT_DATASET else arguments.dataset,
        download=arguments.download,
        settings=[arguments.compute, arguments.settings],
    )
    settings, compute = arguments.settings, arguments.compute
    result, outcome = evaluate(task, settings, model, data, compute, command=command)
    results.append(result)
    if arguments.output is not None:
        path, remark = place_for(arguments.output, result)
        write(path, result, outcome)
        print(f"{remark}: {path}", file=sys.stderr)


@contextmanager
def _naming(model: str, *, among: Sequence[str]) -> Iterator[None]:
    """Say in warnings, and of several models in errors, which model they are about."""

    def show(message: Warning | str, *_: object) -> None:
        print(f"warning: {model}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        # One line, without the source of the library.
        warnings.showwarning = show  # type: ignore[assignment]
        try:
            yield
        except CassleZooError as error:
            if len(among) == 1 or model in str(error):
                raise
            # Some errors about data take other arguments than a message.
            kind = DataError if isinstance(error, DataError) else type(error)
            raise kind(f"{model}: {error}") from error


def _usage() -> str:
    tasks = [f"  {name:17}{_summary(evaluator)}" for name, evaluator in EVALUATORS.items()]
    return "\n".join(
        [
            "usage: cassle-zoo eval TASK MODEL... --data PATH [OPTIONS]",
            "",
            "Measure models side by side. TASK is one of:",
            "",
            *tasks,
            "",
            "cassle-zoo eval TASK --help lists its options.",
            "",
            f"cassle-zoo eval {REPORT} RESULTS... -o report.html compares recorded results.",
        ]
    )


def _summary(evaluator: type[Evaluator]) -> str:
    return (evaluator.__doc__ or "").partition("\n")[0]
