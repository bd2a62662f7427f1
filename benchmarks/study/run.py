"""Walks through the study's jobs; several processes, and later calls, may share one folder.

In the folder: `records/JOB.json` (what was measured; a job with a record is done), `runs/JOB/`
(its training and its model), `log.txt`.
"""

import contextlib
import datetime
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from benchmarks.study.design import (
    CONDITIONING,
    DEPTH,
    MAIN,
    METHODS,
    OMEGA,
    REFERENCE,
    UNTRAINED,
    Design,
    Job,
)
from benchmarks.study.job import (
    Machine,
    clean,
    evaluate_job,
    evaluators_of,
    is_trained,
    job_config,
    make_record,
    train_job,
)
from benchmarks.study.outlook import hours_left
from benchmarks.study.records import Record, check_settings, choose, load_records
from cassle_zoo.common.config import NOT_NEGATIVE, check_fields
from cassle_zoo.common.errors import (
    ConfigError,
    DataError,
    FolderInUseError,
    NonFiniteLossError,
    unknown_name,
)
from cassle_zoo.eval.base import EvalData
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.train.run.faults import locked
from cassle_zoo.train.run.fingerprint import check_same_run

STOPPED = 143
_POLL = 5.0


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A walk through the jobs.

    Attributes:
        out: Folder of the study.
        data: `emoji64.tar` or its folder.
        design: Budgets and arms.
        machine: Where to compute.
        only: Shell patterns of names of jobs, arms or groups to run; the grid is always run.
        hours: No job is started after so many hours.
    """

    out: Path
    data: Path
    design: Design = field(default_factory=Design)
    machine: Machine = field(default_factory=Machine)
    only: tuple[str, ...] = ("*",)
    hours: Annotated[float | None, NOT_NEGATIVE] = None

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)

    def __call__(self) -> int:
        """Run jobs until none is left that another process is not running.

        Returns:
            0; `STOPPED` after a signal or when the hours are over.

        Raises:
            CassleZooError: What a training raises, but for a diverged loss.
        """
        self.machine.share_threads()
        started = time.monotonic()
        opened: list[EvalData] = []
        while True:
            # Before `todo`: what follows the grid is unknown to a list made while it was open.
            grid_was_open = self.choice_is_open()
            todo = self.todo()
            if not todo:
                return 0
            if self.hours is not None and time.monotonic() - started > 3600 * self.hours:
                self._log(f"{self.hours:g} hours are over; the same command continues.")
                return STOPPED
            with self._claim(todo) as job:
                if job is None and grid_was_open:
                    time.sleep(_POLL)  # others are training the last of the grid
                elif job is None:
                    return 0
                else:
                    opened = opened or [open_data("emoji64", self.data)]
                    if not self._run(job, opened[0]):
                        return STOPPED

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return self.out / "records"

    def record_path(self, job: Job) -> Path:
        """Return where a job's record is, or will be."""
        return self.records / f"{job.name}.json"

    def todo(self) -> list[Job]:
        """Return the jobs without a record, as far as they can be known yet, in order.

        Raises:
            ConfigError: If there is a record, but of other settings, or an incomplete one without
                its model.
        """
        return [job for job in self.jobs() if not self._is_done(job)]

    def choice_is_open(self) -> bool:
        """Return whether the grid is not finished, so that no other job is known."""
        return not all(self.record_path(job).exists() for job in self.design.grid())

    def jobs(self) -> list[Job]:
        """Return the jobs asked for: the grid's until it is finished, then all.

        Raises:
            UnknownNameError: If a pattern fits no name.
        """
        grid = self.design.grid()
        known = self.design.jobs(self.design.recipe_choice())
        names = [name for job in (*grid, *known) for name in _names(job)]
        for pattern in self.only:
            if not any(fnmatch(name, pattern) for name in names):
                arms = dict.fromkeys(name for job in (*grid, *known) for name in _names(job)[1:])
                raise unknown_name("job, arm or group", pattern, arms)
        if self.choice_is_open():
            return list(grid)
        records = [Record.load(self.record_path(job)) for job in grid]
        choice = choose(records) if records else self.design.recipe_choice()
        return [*grid, *(job for job in self.design.jobs(choice) if self._is_wanted(job))]

    def _is_wanted(self, job: Job) -> bool:
        return any(fnmatch(name, pattern) for name in _names(job) for pattern in self.only)

    def _is_done(self, job: Job) -> bool:
        record = self._record(job)
        if record is None:
            return False
        check_settings(record, job)  # the folder of its training may be gone
        check_same_run(job_config(job, self.data, self.machine), self._folder(job) / "train")
        missing = evaluators_of(job).keys() - record.results.keys()
        if record.error or not missing:
            return True
        if not job.arm.source and not is_trained(self._folder(job)):
            raise ConfigError(
                f"the record of {job.name} lacks {', '.join(sorted(missing))}, and its model is no "
                f"longer in {str(self._folder(job))!r}: bring that folder back, or remove the "
                "record to train the model again."
            )
        return False

    def _record(self, job: Job) -> Record | None:
        path = self.record_path(job)
        return Record.load(path) if path.exists() else None

    def _folder(self, job: Job) -> Path:
        return self.out / "runs" / job.name

    @contextlib.contextmanager
    def _claim(self, todo: Sequence[Job]) -> Iterator[Job | None]:
        """Hold the first job that no other process holds; None if there is none."""
        with contextlib.ExitStack() as stack:
            for job in todo:
                try:
                    stack.enter_context(locked(self._folder(job)))
                except FolderInUseError:
                    continue
                if not self._is_done(job):  # finished since `todo` was made
                    yield job
                    return
            yield None

    def _run(self, job: Job, data: EvalData) -> bool:
        """Do a job; return False if it was stopped."""
        folder = self._folder(job)
        try:
            if not self._trained(job):
                self._log(f"{job.name}: stopped; the same command continues.")
                return False
            self._log(f"{job.name}: evaluation")
            record = self._measured(job, data)
        except NonFiniteLossError as error:
            record = make_record(job, folder, self.machine, error=str(error))
            self._log(f"{job.name}: {error}")
        record.save(self.record_path(job))
        clean(folder)
        minutes = {part: f"{seconds / 60:.1f}" for part, seconds in record.seconds.items()}
        self._log(
            f"{job.name}: done in {minutes['train']} + {minutes['evaluate']} min; {self._left()}"
        )
        return True

    def _measured(self, job: Job, data: EvalData) -> Record:
        """Evaluate; that features cannot be measured, having collapsed, is recorded, too."""
        folder, before = self._folder(job), self._record(job)
        try:
            return evaluate_job(job, folder, data, self.machine, self.command(job), before)
        except DataError as error:
            if before is not None:
                raise  # what it holds is not to be lost
            self._log(f"{job.name}: cannot be measured: {error}")
            return make_record(job, folder, self.machine, error=str(error))

    def _trained(self, job: Job) -> bool:
        """Train unless there is nothing to train; return False if that was stopped."""
        if job.arm.source:
            return True
        self._log(f"{job.name}: training, {job.arm.config.optim.epochs} epochs")
        return train_job(job, self._folder(job), self.data, self.machine, self.command(job))

    def command(self, job: Job) -> str:
        """Return what to run to get a job's record."""
        design = self.design
        words = ["cassle-zoo reproduce study --data emoji64.tar -o OUT"]
        words.append(f"--epochs {design.epochs}")
        words.append(f"--grid-epochs {design.grid_epochs}" if design.choose else "--no-choose")
        group = job.arm.group
        if group in (REFERENCE, CONDITIONING, OMEGA, DEPTH):
            words.append(f"--ablation-epochs {design.ablation_epochs}")
        option = {MAIN: "--seeds", UNTRAINED: "--seeds", METHODS: "--method-seeds"}.get(group)
        if option:
            words.append(f"{option} {job.seed + 1}")
        if self.machine.threads is not None:
            words.append(f"--threads {self.machine.threads}")
        return " ".join([*words, f"--only {job.name}"])

    def _left(self) -> str:
        """Say how much is left, and how long one process will take for it."""
        left = self.todo()
        hours = hours_left(left, load_records(self.records))
        of_what = " of the grid" if self.choice_is_open() else ""
        return f"{len(left)} left{of_what}, about {hours:.1f} hours of one process"

    def _log(self, text: str) -> None:
        line = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} {text}"
        print(line, file=sys.stderr, flush=True)
        with (self.out / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def _names(job: Job) -> tuple[str, str, str]:
    return job.name, job.arm.name, job.arm.group
