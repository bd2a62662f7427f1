"""Runner of the study: trains, measures and records one job after the other in a folder.

In the folder: `records/JOB.json` (a job with a record is done), `runs/JOB/` (its training and its
model) and `log.txt`. A later call continues. Several processes may share a folder: each takes jobs
that no other one holds.
"""

import contextlib
import dataclasses
import datetime
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import torch

from benchmarks.machine import machine
from benchmarks.study.adapted import ADAPT_GRID, ADAPTED, ORIGINAL, AdaptedDesign
from benchmarks.study.adapted_evaluators import TEST_EVALUATORS, VALIDATION_EVALUATORS
from benchmarks.study.design import GRID, Design, Job
from benchmarks.study.evaluators import EVALUATORS, GRID_EVALUATORS, neighbours
from benchmarks.study.original import PACKAGE, original_file, original_network
from benchmarks.study.records import (
    Record,
    check_data,
    check_settings,
    choose,
    load_records,
    settings_of,
)
from cassle_zoo.common.config import Range
from cassle_zoo.common.devices import autocast_dtype, pick_device
from cassle_zoo.common.errors import (
    ConfigError,
    DataError,
    FolderInUseError,
    NonFiniteLossError,
    UnknownNameError,
    unknown_name,
)
from cassle_zoo.common.faults import locked
from cassle_zoo.common.files import read_json, write_json
from cassle_zoo.eval.base import Compute, EvalContext, EvalData, Evaluator, Settings
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.runner import evaluate
from cassle_zoo.eval.sources import open_source
from cassle_zoo.hub.export import export_run
from cassle_zoo.records import EXPORT_FILE, FINAL_FOLDER, SNAPSHOTS_FOLDER
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.loop import train
from cassle_zoo.train.run.fingerprint import check_same_run

_GRIDS = (GRID, ADAPT_GRID)
_POLL = 5.0  # seconds
_SECONDS_FILE = "seconds.json"  # spent on training, in all calls


@dataclass(frozen=True, kw_only=True)
class Machine(Settings):
    """The machine to compute on.

    Attributes:
        device: Device of training and evaluation; by default a GPU if there is one.
        threads: CPU threads of torch; by default its own choice. Results may depend on it, through
            rounding.
        data_workers: Processes that decode and crop for a training.
    """

    device: str | None = None
    threads: Annotated[int | None, Range(1)] = None
    data_workers: Annotated[int, Range(0)] = 1

    def __str__(self) -> str:
        """Return the name of the GPU, or another device with torch's number of threads."""
        chosen = pick_device(self.device)
        if chosen.type == "cuda":
            return torch.cuda.get_device_name(chosen)
        count = torch.get_num_threads()
        return f"{chosen.type}, {count} thread{'s' if count > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class StudyRunner:
    """A study in a folder.

    Attributes:
        data: `emoji64.tar` or its folder.
        output: Folder of the study.
        only: Shell patterns of names of jobs, arms or groups to run; the grid, if there is one, is
            always run first.
        design: Budgets and arms.
        machine: The machine to compute on.
    """

    data: Path
    output: Path
    only: tuple[str, ...] = ("*",)
    design: Design | AdaptedDesign = field(default_factory=Design)
    machine: Machine = field(default_factory=Machine)

    def run(self) -> bool:
        """Run jobs until none is left that no other process is running.

        Returns:
            Whether that was reached; False if a signal stopped a training, which a later call
            continues.

        Raises:
            ConfigError: If jobs were recorded with other settings or data, `only` matches nothing,
                or `output` is not a folder.
            DataError: If the data cannot be used.
            CassleZooError: What a training raises, except for a loss that diverged.
        """
        try:
            self.records.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(
                f"-o {str(self.output)!r} is a file, or is below one; name a folder."
            ) from None
        if self.machine.threads is not None:
            torch.set_num_threads(self.machine.threads)
        data = open_data("emoji64", self.data)
        check_data(load_records(self.records), data)
        while True:
            # Asked before `todo`: a list made while the grid was open lacks what follows the grid.
            grid_was_open = self.grid_is_open()
            with self._claim(self.todo()) as job:
                if job is not None:
                    if not self._do(job, data):
                        return False
                elif grid_was_open:
                    time.sleep(_POLL)  # other processes are training the last of the grid
                else:
                    return True

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return self.output / "records"

    def record_path(self, job: Job) -> Path:
        """Return where a job's record is, or will be."""
        return self.records / f"{job.name}.json"

    def grid_is_open(self) -> bool:
        """Return whether the grid is unfinished, so that no other job is known yet."""
        return not all(self.record_path(job).exists() for job in self.design.grid())

    def jobs(self) -> list[Job]:
        """Return the jobs asked for: the grid's until it is finished, then all.

        Raises:
            UnknownNameError: If a pattern of `only` matches no job, arm or group.
        """
        grid = list(self.design.grid())
        known = [*grid, *self.design.jobs()]
        for pattern in self.only:
            if not any(fnmatch(name, pattern) for job in known for name in _names(job)):
                arms = {name for job in known for name in _names(job)[1:]}
                error = unknown_name("job, arm or group", pattern, arms)
                groups = dict.fromkeys(job.arm.group for job in known)
                raise UnknownNameError(f"{error} Groups: {', '.join(groups)}.")
        if self.grid_is_open():
            return grid
        records = [Record.load(self.record_path(job)) for job in grid]
        chosen = choose(records) if grid else None
        wanted = [
            job
            for job in self.design.jobs(chosen)
            if any(fnmatch(name, pattern) for name in _names(job) for pattern in self.only)
        ]
        return [*grid, *wanted]

    def todo(self) -> list[Job]:
        """Return the jobs without a record, as far as they can be known yet, in order.

        Raises:
            ConfigError: If there is a record with other settings, or an incomplete one whose model
                is gone.
        """
        return [job for job in self.jobs() if not self._is_done(job)]

    def command(self, job: Job) -> str:
        """Return the command that makes a job's record."""
        what, _, budgets = self.design.command().partition(" ")
        threads = self.machine.threads
        words = [
            f"python -m benchmarks.study {what} --data emoji64.tar -o OUT {budgets}",
            *([] if threads is None else [f"--threads {threads}"]),
        ]
        return " ".join([*words, f"--only {job.name}"])

    def _folder(self, job: Job) -> Path:
        return self.output / "runs" / job.name

    def _record(self, job: Job) -> Record | None:
        path = self.record_path(job)
        return Record.load(path) if path.exists() else None

    def _is_done(self, job: Job) -> bool:
        record = self._record(job)
        if record is None:
            return False
        check_settings(record, job)  # the folder of its training may be gone
        check_same_run(training_config(job, self.data, self.machine), self._folder(job) / "train")
        missing = evaluators_of(job).keys() - record.results.keys()
        if record.error or not (
            missing or set(snapshots(self._folder(job))) - record.course.keys()
        ):
            return True
        if missing and not job.arm.source and not is_trained(self._folder(job)):
            raise ConfigError(
                f"the record of {job.name} lacks {', '.join(sorted(missing))}, and its model is no "
                f"longer in {str(self._folder(job))!r}: bring that folder back, or remove the "
                "record to train the model again."
            )
        return False

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

    def _do(self, job: Job, data: EvalData) -> bool:
        """Do a job; return False if it was stopped."""
        folder = self._folder(job)
        try:
            if not job.arm.source:
                self._log(f"{job.name}: training, {job.arm.config.optim.epochs} epochs")
                if not train_job(job, folder, self.data, self.machine, self.command(job)):
                    self._log(f"{job.name}: stopped; the same command continues.")
                    return False
            self._log(f"{job.name}: evaluation")
            record = self._measure(job, data)
        except NonFiniteLossError as error:
            record = make_record(job, folder, self.machine, error=str(error))
            self._log(f"{job.name}: {error}")
        record.save(self.record_path(job))
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for checkpoint in (folder / "train").glob("checkpoint*.pt"):
            checkpoint.unlink()
        minutes = {part: f"{seconds / 60:.1f}" for part, seconds in record.seconds.items()}
        left = f"{len(self.todo())} left" + (" of the grid" if self.grid_is_open() else "")
        self._log(f"{job.name}: done in {minutes['train']} + {minutes['evaluate']} min; {left}")
        return True

    def _measure(self, job: Job, data: EvalData) -> Record:
        """Evaluate a job's model; features that collapsed, so cannot be measured, are an error."""
        folder, before = self._folder(job), self._record(job)
        try:
            return evaluate_job(job, folder, data, self.machine, self.command(job), before)
        except DataError as error:
            if before is not None:
                raise  # recorded results must not be lost
            self._log(f"{job.name}: cannot be measured: {error}")
            return make_record(job, folder, self.machine, error=str(error))

    def _log(self, text: str) -> None:
        line = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} {text}"
        print(line, file=sys.stderr, flush=True)
        with (self.output / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def training_config(job: Job, data: Path, machine: Machine) -> TrainConfig:
    """Return all settings of a job's training."""
    config = job.arm.config
    return dataclasses.replace(
        config,
        init=str(original_file()) if config.init == PACKAGE else config.init,
        data=dataclasses.replace(config.data, root=str(data), workers=machine.data_workers),
        run=dataclasses.replace(
            config.run,
            seed=job.seed,
            device=machine.device,
            threads=machine.threads,
            loggers=("csv",),
        ),
    )


def train_job(job: Job, folder: Path, data: Path, machine: Machine, command: str) -> bool:
    """Train, or continue training, in `folder/train`, unless that is finished.

    Returns:
        Whether to go on; False if a signal asked to stop.

    Raises:
        CassleZooError: See `cassle_zoo.train.loop.train`.
    """
    config = training_config(job, data, machine)
    if is_trained(folder):
        check_same_run(config, folder / "train")
        return True
    started, before = time.perf_counter(), _training_seconds(folder)
    try:
        return not train(config, folder / "train", command=command).stopped
    finally:
        with contextlib.suppress(OSError):  # `train` has already raised an error for a full disk
            write_json(folder / _SECONDS_FILE, {"train": before + time.perf_counter() - started})


def is_trained(folder: Path) -> bool:
    """Return whether the folder of a job holds a finished training."""
    return (folder / "train" / FINAL_FOLDER / EXPORT_FILE).exists()


def snapshots(folder: Path) -> list[str]:
    """Return the epochs of the snapshots that the training in a job's folder has left."""
    found = sorted((folder / "train" / SNAPSHOTS_FOLDER).glob("[0-9]*"))
    return [str(int(path.name)) for path in found]


def evaluators_of(job: Job) -> Mapping[str, Evaluator]:
    """Return what is measured of a job's model."""
    if job.arm.group == GRID:
        return GRID_EVALUATORS
    if job.arm.group == ADAPT_GRID:
        return VALIDATION_EVALUATORS
    if job.arm.group in (ORIGINAL, ADAPTED):
        return {**VALIDATION_EVALUATORS, **{name: EVALUATORS[name] for name in TEST_EVALUATORS}}
    return EVALUATORS


def course_evaluators_of(job: Job) -> Mapping[str, Evaluator]:
    """Return what is measured of each snapshot of a job's training."""
    names = ("validation", "forgetting") if job.arm.group == ADAPTED else ("validation",)
    return {name: VALIDATION_EVALUATORS[name] for name in names}


def evaluate_job(
    job: Job,
    folder: Path,
    data: EvalData,
    machine: Machine,
    command: str,
    before: Record | None = None,
) -> Record:
    """Measure a job's model, after exporting its training as `folder/model`; return its record.

    Its snapshots, if there are any, are measured too. `before` is a record that lacks evaluations,
    to be completed.
    """
    started = time.perf_counter()
    name = job.arm.source
    if not name:
        export_run(folder / "train", folder / "model", overwrite=True)
        name = f"local-dir:{folder / 'model'}"
    source = (
        open_source(original_network(job.arm.config.augment.size), name=PACKAGE)
        if name == PACKAGE
        else open_source(name, seed=job.seed)
    )
    compute = Compute(seed=job.seed, device=machine.device, cache=folder / "cache", progress=False)
    results = {} if before is None else dict(before.results)
    for task, evaluator in evaluators_of(job).items():
        if task not in results:
            results[task], _ = evaluate(task, evaluator, source, data, compute, command=command)
    course = {} if before is None else dict(before.course)
    for epoch in snapshots(folder):
        if epoch not in course:
            export_run(folder / "train", folder / "snapshot", epoch=int(epoch), overwrite=True)
            then = open_source(f"local-dir:{folder / 'snapshot'}")
            course[epoch] = {
                task: evaluate(task, evaluator, then, data, compute, command=command)[0]
                for task, evaluator in course_evaluators_of(job).items()
            }
    if before is not None:
        spent = before.seconds["evaluate"] + time.perf_counter() - started
        seconds = {**before.seconds, "evaluate": spent}
        return dataclasses.replace(before, results=results, course=course, seconds=seconds)
    found = {} if job.arm.group in _GRIDS else neighbours(EvalContext(source, data, compute))
    spent = time.perf_counter() - started
    return make_record(
        job, folder, machine, spent, results=results, course=course, neighbours=found
    )


def make_record(
    job: Job, folder: Path, machine: Machine, seconds: float = 0.0, **found: Any
) -> Record:
    """Return a job's record; `found` is the rest of it: `results` and `neighbours`, or `error`.

    `seconds` were spent on evaluation.
    """
    device = str(machine)
    precision = "fp32" if job.arm.source else job.arm.config.run.precision
    if autocast_dtype(precision, pick_device(machine.device)) is not None:
        device += ", bf16"
    return Record(
        arm=job.arm.name,
        group=job.arm.group,
        against=job.arm.against,
        seed=job.seed,
        settings=settings_of(job),
        seconds={"train": _training_seconds(folder), "evaluate": seconds},
        device=device,
        training=_made(folder),
        **found,
    )


def _made(folder: Path) -> dict[str, Any]:
    """Return what a job's training says about how it was made, if it is finished."""
    path = folder / "train" / FINAL_FOLDER / EXPORT_FILE
    if not path.exists():
        return {}
    training: dict[str, Any] = read_json(path)["training"]
    kept = {k: v for k, v in training.items() if k not in ("config", "steps", "command")}
    return {**kept, "machine": {k: v for k, v in machine().items() if k != "load"}}


def _names(job: Job) -> tuple[str, str, str]:
    return job.name, job.arm.name, job.arm.group


def _training_seconds(folder: Path) -> float:
    path = folder / _SECONDS_FILE
    return float(read_json(path)["train"]) if path.exists() else 0.0
