"""`cassle-zoo eval`: runs an evaluator on one or more models."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from cassle_zoo.common.devices import check_device
from cassle_zoo.common.errors import (
    CassleZooError,
    ConfigError,
    DataError,
    UnknownNameError,
    unknown_name,
)
from cassle_zoo.common.exit_status import ExitStatus, statuses_of
from cassle_zoo.common.files import check_folder, expand_home
from cassle_zoo.common.terminal import busy, printable, warnings_shown
from cassle_zoo.eval.base import ON_THE_NETWORK, Compute, Evaluator, needs_network
from cassle_zoo.eval.datasets import DATASETS, open_data
from cassle_zoo.eval.datasets.split_rules import SplitConfig
from cassle_zoo.eval.feature_cache import cache_folder
from cassle_zoo.eval.protocols import EVALUATORS
from cassle_zoo.eval.protocols.detection import Detection
from cassle_zoo.eval.report import page as report
from cassle_zoo.eval.report.export import format_table
from cassle_zoo.eval.runner import check_output, evaluate, place_for, write
from cassle_zoo.eval.sources import (
    FEATURES,
    FORMS,
    FeatureSource,
    common_size,
    find_source,
    is_no_network,
    zoo_size,
)
from cassle_zoo.features.whitening import OWN
from cassle_zoo.records import Result
from cassle_zoo.specs import DATASETS as SPECS
from cassle_zoo.store.model_files import LOCAL_PREFIX

REPORT = "report"
DEFAULT_DATASET = "emoji64"

_NO_EFFECT = ("cache", "no_cache", "progress")  # settings that change no number

Settings = TypeVar("Settings", bound=Evaluator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Generic[Settings]):
    """Arguments of the command.

    Attributes:
        models: Names, `hf-hub:ORG/NAME`, `local-dir:FOLDER`, `timm:NAME`, `random-init:ARCH`,
            `raw-pixels`, or `features:FILE`.
        data: Folder or archive that holds the dataset.
        dataset: Name of the dataset; `folder` for your own images.
        split: How to split a `folder` that holds only folders of classes.
        download: Download the dataset into the folder if it is not there.
        output: Where to record the results: FILE.json for one model, or a folder. Images and pages
            are written beside them.
        json: Print the results as a JSON array instead of a table; nothing else goes to standard
            output.
        compute: Where and how to compute.
        settings: Settings of the evaluator.
    """

    models: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="MODEL...", help_behavior_hint="(required)"),
    ]
    data: Path
    dataset: str = DEFAULT_DATASET
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    download: bool = False
    output: Annotated[
        Path | None,
        tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH", help_behavior_hint="(optional)"),
    ] = None
    json: bool = False
    compute: Annotated[Compute, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Compute)
    settings: Annotated[Settings, tyro.conf.arg(name="")]


def run_from_cli(argv: Sequence[str]) -> ExitStatus:
    """Run `cassle-zoo eval ARGV...` and return its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage(), file=sys.stdout if argv else sys.stderr)
        return ExitStatus.OK if argv else ExitStatus.ERROR
    if argv[0] == REPORT:
        return report.run_from_cli(argv[1:])
    task = argv[0]
    if task not in EVALUATORS:
        raise unknown_name(
            "evaluation", task, (*EVALUATORS, REPORT), listed_by="cassle-zoo eval --help"
        )
    evaluator = EVALUATORS[task]
    arguments = tyro.cli(
        Arguments[evaluator],  # type: ignore[valid-type]
        prog=f"cassle-zoo eval {task}",
        description=f"{_summary(evaluator)}\n\nDatasets: {', '.join(DATASETS)}.\n\n{statuses_of()}",
        config=(tyro.conf.FlagCreatePairsOff,),
        args=list(argv[1:]),
    )
    models = tuple(dict.fromkeys(arguments.models))
    if len(models) < len(arguments.models):
        print("note: a model that is named twice is evaluated once", file=sys.stderr)
    if not models:
        raise ConfigError(f"name at least one model. {FORMS}")
    if arguments.dataset not in DATASETS:
        error = unknown_name("dataset", arguments.dataset, DATASETS)
        raise UnknownNameError(f"{error} All: {', '.join(DATASETS)}.")
    if arguments.output is not None:
        check_output(arguments.output, len(models))
    as_json: bool = arguments.json
    _check_whitening(arguments.settings, models)
    if task in ON_THE_NETWORK and (files := [m for m in models if m.startswith(FEATURES)]):
        raise needs_network(files[0])
    sizes = _sizes(arguments, models)
    openers = _find(arguments, models, sizes)
    # Libraries that download datasets report on standard output.
    with warnings_shown("warning: "), redirect_stdout(sys.stderr):
        data = open_data(
            arguments.dataset,
            expand_home(arguments.data),
            download=arguments.download,
            split=None if arguments.split == SplitConfig() else arguments.split,
            max_bad_fraction=arguments.compute.max_bad_fraction,
        )
    results: list[Result] = []
    try:
        for model in models:
            with _naming(model, among=models), redirect_stdout(sys.stderr):
                own = dataclasses.replace(
                    arguments, compute=_recorded(arguments, model, sizes[model])
                )
                with busy(f"loading {model}"):
                    source = openers.pop(model)()
                result, outcome = evaluate(
                    task,
                    own.settings,
                    source,
                    data,
                    own.compute,
                    command=public_command(task, model, own),
                    record=own.output is not None,
                )
                del source  # only one network is in memory
                results.append(result)
                if own.output is not None:
                    path, remark = place_for(own.output, result)
                    results[-1] = write(path, result, outcome)
                    print(f"{remark}: {path}", file=sys.stderr)
    finally:
        # Shown even if a later model fails.
        if results:
            # In ASCII, which every standard output can encode.
            found = [result.to_dict() for result in results]
            table = "\n".join(map(printable, format_table(results).split("\n")))
            print(json.dumps(found, indent=2) if as_json else table)
    return ExitStatus.OK


def _check_whitening(settings: Evaluator, models: Sequence[str]) -> None:
    """Check that a fitted whitening is not applied to features that it was not fitted to."""
    # A suite has the settings of its evaluators.
    for prefix, own in {"": settings, **{f"{k}.": v for k, v in vars(settings).items()}}.items():
        whiten = getattr(own, "whiten", None)
        if isinstance(whiten, Path) and str(whiten) != OWN and len(models) > 1:
            option = f"--{prefix}whiten"
            raise ConfigError(
                f"{option} {whiten} was fitted to the features of one model, but {len(models)} are "
                f"measured; measure each with its own, or all with {option} N or {option} model."
            )


def _sizes(arguments: Arguments[Any], models: Sequence[str]) -> dict[str, int | None]:
    """Return the input size of every model: as asked for, its own (None), or that of the others."""
    size = arguments.compute.size
    if isinstance(arguments.settings, Detection):
        if size is not None:
            raise ConfigError(
                f"--size {size} has no effect on detection, which resizes images as --sizes and "
                "--max-size say; leave it out."
            )
        return dict.fromkeys(models)
    if size is not None:
        alone = all(map(is_no_network, models))  # which `find_source` refuses
        return {model: size if alone or not is_no_network(model) else None for model in models}
    fixed = []
    for model in models:
        with _naming(model, among=models):
            fixed.append(zoo_size(model))
    common = common_size(models, native=_native(arguments.dataset))
    sizes: dict[str, int | None] = dict.fromkeys(models)
    if common is None:
        return sizes
    resized = [
        model
        for model, own in zip(models, fixed, strict=True)
        if own is None and not is_no_network(model)
    ]
    if resized:
        others = sorted({own for own in fixed if own not in (None, common[0])})
        several = f"; others are of {', '.join(map(str, others))} px" if others else ""
        print(
            f"note: {', '.join(resized)} measured at {common[0]} px, {common[1]}{several} (--size "
            "for another)",
            file=sys.stderr,
        )
    elif len({own for own in fixed if own is not None}) > 1:
        each = [f"{model} {own} px" for model, own in zip(models, fixed, strict=True) if own]
        print(
            f"note: models are measured at their own sizes: {', '.join(each)} (--size for one)",
            file=sys.stderr,
        )
    return {**sizes, **dict.fromkeys(resized, common[0])}


def _recorded(arguments: Arguments[Any], model: str, size: int | None) -> Compute:
    """Return the settings to record for a model, with the size if alone it would have another."""
    compute = arguments.compute
    if compute.size == size:
        return compute
    alone = common_size([model], native=_native(arguments.dataset))
    if compute.size is None and alone is not None and alone[0] == size:
        return compute
    return dataclasses.replace(compute, size=size)


def _native(dataset: str) -> int | None:
    return SPECS[dataset].input_size[-1] if dataset == DEFAULT_DATASET else None


def _find(
    arguments: Arguments[Any], models: Sequence[str], sizes: Mapping[str, int | None]
) -> dict[str, Callable[[], FeatureSource]]:
    """Find the models, and check device and cache, before anything is computed.

    Networks are built one after the other, so that only one is in memory.
    """
    check_device(arguments.compute.device)
    openers = {}
    for model in models:
        with _naming(model, among=models):
            openers[model] = find_source(model, seed=arguments.compute.seed, size=sizes[model])
    extracts = not all(model.startswith(FEATURES) for model in models)
    if extracts and not arguments.compute.no_cache:
        folder = arguments.compute.cache or cache_folder()
        check_folder(folder, "--cache FOLDER, or cache nothing with --no-cache")
    return openers


@contextmanager
def _naming(model: str, *, among: Sequence[str]) -> Iterator[None]:
    """Name the model in warnings and, if there are several, in errors."""
    with warnings_shown(f"warning: {model}: "):
        try:
            yield
        except CassleZooError as error:
            if len(among) == 1 or model in str(error):
                raise
            # Some subclasses of DataError do not take a message.
            kind = DataError if isinstance(error, DataError) else type(error)
            raise kind(f"{model}: {error}") from error


def public_command(task: str, model: str, arguments: Arguments[Any]) -> str:
    """Return the command that repeats the measurement of one model, without defaults."""
    words = ["cassle-zoo", "eval", task, _public_model(model), "--data", _public(arguments.data)]
    if arguments.dataset != DEFAULT_DATASET:
        words += ["--dataset", arguments.dataset]
    if arguments.download:
        words.append("--download")
    words += _options(arguments.split, "split.")
    return shlex.join([*words, *_options(arguments.compute), *_options(arguments.settings)])


def _options(settings: Any, prefix: str = "") -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        make = field.default_factory
        default = field.default if make is dataclasses.MISSING else make()
        name = prefix + field.name.replace("_", "-")
        if value == default or field.name in _NO_EFFECT:
            continue
        if dataclasses.is_dataclass(value):
            words += _options(value, f"{name}.")
        elif isinstance(value, Path):
            words += [f"--{name}", _public(value)]
        elif isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, tuple | list) else [value]
            words += [f"--{name}", *map(str, values)]
    return words


def _public(path: str | Path) -> str:
    """Return a path that can be published: an absolute one is cut to its part below this folder.

    Results are published, so the user's folders are not shown; a path relative to the current
    folder reveals nothing about them.
    """
    path = Path(path)
    if not path.is_absolute():
        return path.as_posix()
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


def _public_model(model: str) -> str:
    prefix = next((own for own in (LOCAL_PREFIX, FEATURES) if model.startswith(own)), None)
    return model if prefix is None else prefix + _public(model.removeprefix(prefix))


def _usage() -> str:
    tasks = [f"  {name:17}{_summary(evaluator)}" for name, evaluator in EVALUATORS.items()]
    return "\n".join(
        [
            "usage: cassle-zoo eval TASK MODEL... --data PATH [OPTIONS]",
            "",
            "Evaluate models side by side. TASK is one of:",
            "",
            *tasks,
            "",
            "cassle-zoo eval TASK --help lists its options.",
            "",
            f"cassle-zoo eval {REPORT} RESULTS... -o report.html compares recorded results.",
            "",
            statuses_of(),
        ]
    )


def _summary(evaluator: type[Evaluator]) -> str:
    return (evaluator.__doc__ or "").partition("\n")[0]
