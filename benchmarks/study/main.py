"""`cassle-zoo reproduce`: recorded numbers again, and the whole study."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.study.design import Design
from benchmarks.study.job import Machine
from benchmarks.study.page import FINDINGS, write_page
from benchmarks.study.processes import run_study
from benchmarks.study.records import RECORDS, check_data, load_records
from benchmarks.study.reproduce import (
    compare,
    comparison_table,
    find_recorded,
    recorded_results,
    reproduce,
)
from benchmarks.study.run import STOPPED, Walk
from cassle_zoo.common.errors import ConfigError
from cassle_zoo.eval.datasets import open_data

STUDY, PAGE = "study", "page"

_DESCRIPTION = """Train and measure all arms of the study, the most important first.

The same command run again continues, also beside one that is running. Exit status: 0 finished, 143
stopped by a signal or because the hours are over, 2 bad input."""

_USAGE = """usage: cassle-zoo reproduce NAME --data emoji64.tar -o DIR [OPTIONS]
       cassle-zoo reproduce study --data emoji64.tar -o DIR [OPTIONS]
       cassle-zoo reproduce page --data emoji64.tar [OPTIONS]
       cassle-zoo reproduce --list

Train the model NAME by its recipe, measure it and compare with the numbers of MODEL_CARDS.md; or
run the whole study; or write docs/study.md from recorded results. The same command continues what
was interrupted. --help after the name lists the options; --list lists the names."""

_MODEL_DESCRIPTION = """Train {name} by its recipe, if it is trained, measure it, and compare.

A number agrees if it is off by no more than two trainings with different seeds may be (95 % for all
numbers at once, by the spread over seeds in the study; at least 1 point); by 0.5 points if nothing
is trained. Exit status: 0 all agree, 1 some do not, 143 stopped by a signal (the same command
continues), 2 bad input."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Arguments of `cassle-zoo reproduce NAME`.

    Attributes:
        data: `emoji64.tar` or its folder.
        output: Folder of the training.
        tolerance: How far each number may be off, in percentage points, whatever the seeds say.
        threads: CPU threads; by default as in the recorded training.
        data_workers: Processes that decode and crop.
        device: Such as `cpu` or `cuda:0`; by default a GPU if there is one.
    """

    data: Path
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    tolerance: float | None = None
    threads: int | None = None
    data_workers: int = 1
    device: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyArguments:
    """Arguments of `cassle-zoo reproduce study`.

    Attributes:
        data: `emoji64.tar` or its folder.
        output: Folder of the study.
        epochs: Of the main arms and the other methods.
        grid_epochs: Of the trainings that learning rate and weight decay are chosen on.
        ablation_epochs: Of the ablations, and of what they are compared with.
        seeds: Seeds of SimCLR, SimCLR + AugSelf and CASSLE-SimCLR.
        method_seeds: Seeds of the other methods.
        choose: Choose learning rate and weight decay of the baseline by a grid; else the recipe's.
        only: Shell patterns of the jobs, arms or groups (main, methods, reference, conditioning,
            omega, depth, untrained) to run; the grid is run before all.
        hours: Start no job after so many hours.
        workers: Processes that work side by side.
        threads: CPU threads of each; by default the machine's cores are shared out.
        data_workers: Processes that decode and crop, for each.
        device: Such as `cpu` or `cuda:0`; by default a GPU if there is one.
        list: Only list the names of the jobs that have no record yet.
    """

    data: Path
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    epochs: int = 25
    grid_epochs: int = 10
    ablation_epochs: int = 10
    seeds: int = 3
    method_seeds: int = 1
    choose: bool = True
    only: tuple[str, ...] = ("*",)
    hours: float | None = None
    workers: int = 1
    threads: int | None = None
    data_workers: int = 1
    device: str | None = None
    list: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageArguments:
    """Arguments of `cassle-zoo reproduce page`.

    Attributes:
        data: `emoji64.tar` or its folder.
        records: Folder of recorded results, such as DIR/records of the study; by default those of
            the published page.
        output: Folder for `study.md` and the folder of its figures.
    """

    data: Path
    records: Path = RECORDS
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("docs")


def run_from_cli(argv: Sequence[str]) -> int:
    """Run `cassle-zoo reproduce ARGV...` and return its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if argv else 2
    name, *rest = argv
    if name == "--list":
        print("\n".join([*recorded_results(), STUDY, PAGE]))
        return 0
    commands = {STUDY: run_study_command, PAGE: run_page}
    return commands[name](rest) if name in commands else run_model(name, rest)


def run_model(name: str, argv: Sequence[str]) -> int:
    """Run `cassle-zoo reproduce NAME ARGV...` and return its exit status."""
    recorded = find_recorded(name)
    name = str(recorded.model["name"])
    arguments = tyro.cli(
        ModelArguments,
        prog=f"cassle-zoo reproduce {name}",
        description=_MODEL_DESCRIPTION.format(name=name),
        config=(tyro.conf.FlagCreatePairsOff,),
        args=list(argv),
    )
    if arguments.tolerance is not None and not arguments.tolerance >= 0:
        raise ConfigError(f"--tolerance must be at least 0, got {arguments.tolerance}.")
    machine = Machine(
        device=arguments.device, threads=arguments.threads, data_workers=arguments.data_workers
    )
    found = reproduce(recorded, arguments.output, arguments.data, machine)
    if found is None:
        return STOPPED
    tolerance = None if arguments.tolerance is None else arguments.tolerance / 100
    rows = compare(recorded, found, load_records(RECORDS), tolerance)
    print(comparison_table(rows))
    outside = sum(not row.agrees for row in rows)
    print(f"{len(rows) - outside} of {len(rows)} numbers agree.")
    return 1 if outside else 0


def run_study_command(argv: Sequence[str]) -> int:
    """Run `cassle-zoo reproduce study ARGV...` and return its exit status."""
    arguments = tyro.cli(
        StudyArguments,
        prog="cassle-zoo reproduce study",
        description=_DESCRIPTION,
        config=(tyro.conf.FlagCreatePairsOff,),
        args=list(argv),
    )
    walk = make_walk(arguments)
    if arguments.list:
        print("\n".join(job.name for job in walk.todo()))
        return 0
    return run_study(walk, arguments.workers)


def run_page(argv: Sequence[str]) -> int:
    """Run `cassle-zoo reproduce page ARGV...` and return its exit status."""
    arguments = tyro.cli(
        PageArguments,
        prog="cassle-zoo reproduce page",
        description="Write study.md and its figures from recorded results (extra `study`).",
        args=list(argv),
    )
    records = load_records(arguments.records)
    data = open_data("emoji64", arguments.data)
    check_data(records, data)
    published = arguments.records.resolve() == RECORDS
    findings = FINDINGS.read_text(encoding="utf-8") if published else ""
    print(write_page(records, data, arguments.output, findings))
    return 0


def make_walk(arguments: StudyArguments) -> Walk:
    """Return what the arguments ask for.

    Raises:
        ConfigError: If a number is out of its range.
    """
    if arguments.workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {arguments.workers}.")
    threads = arguments.threads
    if threads is None and arguments.workers > 1:
        threads = max(1, _cores() // arguments.workers)
    return Walk(
        out=arguments.output,
        data=arguments.data,
        design=Design(
            epochs=arguments.epochs,
            grid_epochs=arguments.grid_epochs,
            ablation_epochs=arguments.ablation_epochs,
            seeds=arguments.seeds,
            method_seeds=arguments.method_seeds,
            choose=arguments.choose,
        ),
        machine=Machine(
            device=arguments.device,
            threads=threads,
            data_workers=arguments.data_workers,
        ),
        only=arguments.only,
        hours=arguments.hours,
    )


def _cores() -> int:
    """Return the number of cores that this process may use."""
    is_linux = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
