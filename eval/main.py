"""`cassle-zoo eval`: an evaluator, with any setting overridden, on models side by side."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro

from cassle_zoo.errors import ConfigError, unknown_name
from cassle_zoo.eval import report
from cassle_zoo.eval.base import Compute, EvalData, Evaluator, Outcome
from cassle_zoo.eval.datasets import DATASETS, open_data
from cassle_zoo.eval.evaluators import EVALUATORS
from cassle_zoo.eval.harness import evaluate
from cassle_zoo.eval.results import Result
from cassle_zoo.eval.tables import format_table

REPORT = "report"

Settings = TypeVar("Settings", bound=Evaluator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Generic[Settings]):
    """Arguments of the command.

    Attributes:
        models: Names, `hf-hub:ORG/NAME`, `local-dir:FOLDER`, `timm:NAME`, `random-init:ARCH`,
            `raw-pixels`, or `features:FILE`.
        data: Folder or archive that holds the data set.
        dataset: Name of the data set.
        download: Fetch the data set into the folder if it is not there.
        output: Record the results: FILE.json for one model, or a folder for a file each. Pictures
            and pages are written beside them.
        compute: How to compute.
        settings: Settings of the evaluator.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    data: Path
    dataset: str = "emoji64"
    download: bool = False
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
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
    if not arguments.models:
        raise ConfigError("name at least one model to measure.")
    if _is_file(arguments.output) and len(arguments.models) > 1:
        raise ConfigError(
            f"{arguments.output} is one file, but {len(arguments.models)} models are measured; "
            "give a folder."
        )
    data = open_data(arguments.dataset, arguments.data, download=arguments.download)
    results = []
    for model in arguments.models:
        command = public_command(task, argv, model, arguments.models)
        result, outcome = evaluate(
            task, arguments.settings, model, data, arguments.compute, command=command
        )
        if arguments.output is not None:
            path = record(arguments.output, data, result, outcome)
            print(f"recorded: {path}", file=sys.stderr)
        results.append(result)
    print(format_table(results))
    return 0


def record(output: Path, data: EvalData, result: Result, outcome: Outcome) -> Path:
    """Write a result, and beside it the files of its outcome.

    Args:
        output: `FILE.json`, or a folder, in which the file is named after what was measured.
        data: What was measured on.
        result: What was found.
        outcome: What belongs beside it.

    Returns:
        The JSON file.
    """
    path = output
    if not _is_file(output):
        parts = (result.task, data.name, str(result.model["name"]))
        path = output / ("--".join(re.sub(r"[^A-Za-z0-9._-]+", "_", p) for p in parts) + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    names = []
    for name, content in outcome.files.items():
        names.append(f"{path.stem}.{name}")
        path.with_name(names[-1]).write_bytes(content)
    dataclasses.replace(result, files=names).save(path)
    return path


def _is_file(output: Path | None) -> bool:
    return output is not None and output.suffix == ".json"


def public_command(task: str, argv: Sequence[str], model: str, models: Sequence[str]) -> str:
    """Return the command for one model as results may show it: without the user's folders."""
    shown: list[str] = []
    words = iter([word for argument in argv for word in argument.split("=", 1)])
    for word in words:
        if word in ("-o", "--output", "--cache"):
            next(words, None)
        elif word == "--data":
            shown += [word, Path(next(words, "")).name]
        elif word not in models and word != "--no-cache":
            shown.append(word)
    return shlex.join(["cassle-zoo", "eval", task, _without_folders(model), *shown])


def _without_folders(model: str) -> str:
    prefix, colon, rest = model.partition(":")
    return f"{prefix}:{Path(rest).name}" if colon and prefix in ("local-dir", "features") else model


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
