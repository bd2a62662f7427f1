"""One job of the study: train, package, evaluate, record."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from benchmarks.study.design import GRID, Job
from benchmarks.study.directions import MainDirections
from benchmarks.study.neighbours import neighbours
from benchmarks.study.records import Record, settings_of
from cassle_zoo.common.config import Range, check_fields
from cassle_zoo.common.devices import autocast_dtype, pick_device
from cassle_zoo.common.files import read_json, write_json
from cassle_zoo.eval.base import Compute, EvalContext, EvalData, Evaluator
from cassle_zoo.eval.protocols.emoji64 import Emoji64Suite
from cassle_zoo.eval.protocols.equivariance import Equivariance
from cassle_zoo.eval.protocols.knn import KNN
from cassle_zoo.eval.protocols.linear_probe import LinearProbe
from cassle_zoo.eval.protocols.retrieval import Retrieval
from cassle_zoo.eval.protocols.sensitivity import Sensitivity
from cassle_zoo.eval.protocols.spectrum import Spectrum
from cassle_zoo.eval.runner import evaluate
from cassle_zoo.eval.sources import open_source
from cassle_zoo.hub.export import EXPORT_FILE, export_run
from cassle_zoo.records import Result
from cassle_zoo.train.config import TrainConfig
from cassle_zoo.train.loop import train
from cassle_zoo.train.run.fingerprint import check_same_run

GRID_EVALUATORS: dict[str, Evaluator] = {"linear-probe": LinearProbe()}
WHITENED = 128
EVALUATORS: dict[str, Evaluator] = {
    "emoji64": Emoji64Suite(),
    "sensitivity": Sensitivity(figures=False),
    "equivariance": Equivariance(figures=False),
    "spectrum": Spectrum(figures=False),
    "main-directions": MainDirections(),
    "knn-whitened": KNN(whiten=WHITENED),
    "retrieval-whitened": Retrieval(ks=(1,), classification="none", examples=0, whiten=WHITENED),
}
CACHE = "cache"
_SECONDS_FILE = "seconds.json"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where to compute.

    Attributes:
        device: Device of training and evaluation; a GPU by default if there is one.
        threads: CPU threads of torch; its own choice by default. Rounding, and so results, may
            depend on it.
        data_workers: Processes that decode and crop for a training.
    """

    device: str | None = None
    threads: Annotated[int | None, Range(1)] = None
    data_workers: Annotated[int, Range(0)] = 1

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)

    def share_threads(self) -> None:
        """Have this process compute with the threads asked for, evaluations too."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)


def train_job(job: Job, folder: Path, data: Path, machine: Machine, command: str) -> bool:
    """Train, or continue training, in `folder/train`; a finished training is left as it is.

    Args:
        job: What to train.
        folder: Of the job.
        data: The images.
        machine: Where to compute.
        command: What to run to do it again.

    Returns:
        Whether to go on; if not, a signal asked to stop, and the same call continues.

    Raises:
        CassleZooError: See `cassle_zoo.train.loop.train`.
    """
    config = job_config(job, data, machine)
    if is_trained(folder):
        check_same_run(config, folder / "train")
        return True
    started = time.perf_counter()
    before = _seconds(folder)
    try:
        return not train(config, folder / "train", command=command).stopped
    finally:
        with contextlib.suppress(OSError):  # a full disk is told by what `train` raises
            write_json(folder / _SECONDS_FILE, {"train": before + time.perf_counter() - started})


def is_trained(folder: Path) -> bool:
    """Return whether the folder of a job holds a finished training."""
    return (folder / "train" / "final" / EXPORT_FILE).exists()


def job_config(job: Job, data: Path, machine: Machine) -> TrainConfig:
    """Return all settings of a job's training."""
    config = job.arm.config
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, root=str(data), workers=machine.data_workers),
        run=dataclasses.replace(
            config.run,
            seed=job.seed,
            device=machine.device,
            threads=machine.threads,
            loggers=("csv",),
        ),
    )


def evaluate_job(
    job: Job,
    folder: Path,
    data: EvalData,
    machine: Machine,
    command: str,
    before: Record | None = None,
) -> Record:
    """Measure a job's model, after packaging a finished training as `folder/model`.

    Args:
        job: What to measure.
        folder: Of the job.
        data: What to measure on.
        machine: Where to compute.
        command: What to run to do it again.
        before: A record that lacks evaluations; it is completed.
    """
    started = time.perf_counter()
    context = _context(job, folder, data, machine)
    results = {} if before is None else dict(before.results)
    wanted = evaluators_of(job)
    missing = {name: evaluator for name, evaluator in wanted.items() if name not in results}
    results |= measure(context, missing, command)
    if before is not None:
        seconds = before.seconds["evaluate"] + time.perf_counter() - started
        return dataclasses.replace(
            before, results=results, seconds={**before.seconds, "evaluate": seconds}
        )
    found = {} if job.arm.group == GRID else neighbours(context)
    seconds = time.perf_counter() - started
    return make_record(job, folder, machine, seconds, results=results, neighbours=found)


def evaluators_of(job: Job) -> Mapping[str, Evaluator]:
    """Return what is measured of a job's model."""
    return GRID_EVALUATORS if job.arm.group == GRID else EVALUATORS


def _context(job: Job, folder: Path, data: EvalData, machine: Machine) -> EvalContext:
    if not job.arm.source:
        return package(job, folder, data, machine)
    compute = _compute(job, folder, machine)
    return EvalContext(open_source(job.arm.source, seed=job.seed), data, compute)


def package(job: Job, folder: Path, data: EvalData, machine: Machine) -> EvalContext:
    """Write a finished training as a model folder `folder/model`, to be measured on data."""
    model = folder / "model"
    export_run(folder / "train", model, overwrite=True)
    return EvalContext(open_source(f"local-dir:{model}"), data, _compute(job, folder, machine))


def _compute(job: Job, folder: Path, machine: Machine) -> Compute:
    return Compute(seed=job.seed, device=machine.device, cache=folder / CACHE, progress=False)


def measure(
    context: EvalContext, evaluators: Mapping[str, Evaluator], command: str
) -> dict[str, Result]:
    """Return the results of evaluations by name."""
    return {
        task: evaluate(
            task, evaluator, context.source, context.data, context.compute, command=command
        )[0]
        for task, evaluator in evaluators.items()
    }


def clean(folder: Path) -> None:
    """Remove what a recorded job no longer needs: checkpoints and kept features."""
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    for checkpoint in (folder / "train").glob("checkpoint*.pt"):
        checkpoint.unlink()


def make_record(
    job: Job, folder: Path, machine: Machine, seconds: float = 0.0, **found: Any
) -> Record:
    """Return a job's record.

    Args:
        job: What was trained.
        folder: Of the job.
        machine: Where it was computed.
        seconds: Spent on evaluation.
        **found: What else a record holds: `results` and `neighbours`, or `error`.
    """
    return Record(
        arm=job.arm.name,
        group=job.arm.group,
        against=job.arm.against,
        seed=job.seed,
        settings=settings_of(job),
        seconds={"train": _seconds(folder), "evaluate": seconds},
        device=device_name(
            machine.device, "fp32" if job.arm.source else job.arm.config.run.precision
        ),
        **found,
    )


def device_name(device: str | None, precision: str) -> str:
    """Return the name of the GPU, or of another device with torch's number of threads; bf16 if so.

    Args:
        device: As for `pick_device`.
        precision: As in the settings of a run.
    """
    chosen = pick_device(device)
    if chosen.type == "cuda":
        name = torch.cuda.get_device_name(chosen)
    else:
        count = torch.get_num_threads()
        name = f"{chosen.type}, {count} thread{'s' if count > 1 else ''}"
    return name if autocast_dtype(precision, chosen) is None else f"{name}, bf16"


def _seconds(folder: Path) -> float:
    path = folder / _SECONDS_FILE
    return float(read_json(path)["train"]) if path.exists() else 0.0
