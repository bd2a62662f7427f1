"""Command line of the study: `python -m benchmarks.study run|page|tolerances`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.study.page import FINDINGS, write_page
from benchmarks.study.records import RECORDS, check_data, load_records
from benchmarks.study.runner import StudyRunner
from benchmarks.study.tolerances import TOLERANCES, seed_tolerances
from cassle_zoo.common.errors import CassleZooError
from cassle_zoo.common.files import write_json
from cassle_zoo.eval.datasets import open_data

STOPPED = 143  # as `cassle-zoo train`


def run(*, runner: Annotated[StudyRunner, tyro.conf.arg(name="")], list: bool = False) -> int:
    """Train and measure all arms of the study, the most important first.

    The same command run again continues; run beside one that is running, it shares the work.
    Exit status: 0 finished, 143 stopped by a signal, 2 bad input.

    Args:
        runner: The study.
        list: Only list the names of the jobs that have no record yet.
    """
    if list:
        print("\n".join(job.name for job in runner.todo()))
        return 0
    return 0 if runner.run() else STOPPED


def page(
    *,
    data: Path,
    records: Path = RECORDS,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("docs"),
) -> int:
    """Write study.md, study_tables.md and their figures from recorded results.

    Args:
        data: `emoji64.tar` or its folder, for the galleries.
        records: Folder of the records, such as DIR/records after `run -o DIR`; by default the
            published ones.
        output: Folder for both pages and the folder of their figures.
    """
    found = load_records(records)
    images = open_data("emoji64", data)
    check_data(found, images)
    published = records.resolve() == RECORDS
    findings = FINDINGS.read_text(encoding="utf-8") if published else ""
    print(write_page(found, images, output, findings))
    return 0


def tolerances() -> int:
    """Write the tolerances of `cassle-zoo reproduce` from the published records."""
    write_json(TOLERANCES, seed_tolerances(load_records(RECORDS)))
    print(TOLERANCES)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    status: int = tyro.extras.subcommand_cli_from_dict(
        {"run": run, "page": page, "tolerances": tolerances},
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
