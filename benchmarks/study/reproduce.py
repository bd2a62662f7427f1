"""Measures a recorded model again, from its training on, and compares the numbers.

How far they may be off: on one machine a repetition is equal bit for bit. Other processors and
versions round differently, and a training carries that on until it is another sample of the same
distribution, as another seed would be. Two such samples differ by √2 standard deviations, which
the study's main arms tell: pooled over 3 arms of 3 seeds, with 6 degrees of freedom. `T` times that
covers all 17 numbers of a model at once with probability 95 %. What is not trained may be off by
`UNTRAINED_TOLERANCE`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.design import MAIN, Arm, Job
from benchmarks.study.job import Machine, clean, job_config, measure, package, train_job
from benchmarks.study.records import Record
from cassle_zoo.common.errors import ConfigError, unknown_name
from cassle_zoo.common.files import write_json
from cassle_zoo.eval.base import Compute, EvalContext
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.eval.protocols.emoji64 import Emoji64Suite
from cassle_zoo.eval.sources import open_source
from cassle_zoo.records import Result
from cassle_zoo.specs import MODEL_SPECS
from cassle_zoo.store.folder import CONFIG_FILE, bundled_folder, read_config
from cassle_zoo.train.recipes import get_recipe
from cassle_zoo.train.run.fingerprint import check_same_run

RESULTS = Path(__file__).resolve().parents[2] / "eval" / "results"
T = 4.8  # Student's t of 6 degrees of freedom: outside with probability 0.05 / 17
LEAST, UNTRAINED_TOLERANCE = 0.01, 0.005


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A number, recorded and found again.

    Attributes:
        task: Sub-task.
        metric: Name of the number.
        recorded: Its recorded value.
        found: Its value now.
        tolerance: How far `found` may be from `recorded`.
    """

    task: str
    metric: str
    recorded: float
    found: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the number was found again within the tolerance."""
        return abs(self.found - self.recorded) <= self.tolerance


def recorded_results(folder: Path = RESULTS) -> dict[str, Result]:
    """Return the recorded results by name of the model."""
    results = [Result.load(path) for path in sorted(folder.glob("*.json"))]
    return {str(result.model["name"]): result for result in results}


def reproduce(recorded: Result, out: Path, data: Path, machine: Machine) -> Result | None:
    """Train a recorded model by its recipe, and measure it; what needs no training is measured.

    Args:
        recorded: One of `recorded_results`.
        out: Folder of the training; a later call continues one that was interrupted.
        data: `emoji64.tar` or its folder.
        machine: Where to compute; the threads default to those of the recorded training.

    Returns:
        The result, which is kept in `out/result.json` and not measured again if it is there; None
        if a signal stopped the training.

    Raises:
        ConfigError: If the recipe is no longer what the weights were trained with, the data are not
            those of the recorded result, or `out` holds a result of another model.
    """
    name = str(recorded.model["name"])
    images = open_data("emoji64", data)
    if images.sha256 != recorded.data["sha256"]:
        raise ConfigError(
            f"{data} is not the data of the recorded result: its sha256 is {images.sha256}, "
            f"expected {recorded.data['sha256']}."
        )
    path = out / "result.json"
    if path.exists():
        found = Result.load(path)
        if (found.model["name"], found.data["sha256"]) != (name, images.sha256):
            raise ConfigError(f"{path} is not a result of {name}; use another output folder.")
        return found
    command = f"cassle-zoo reproduce {name} --data {data.name} -o OUT"
    if name not in MODEL_SPECS:
        compute = Compute(seed=recorded.seed, device=machine.device, no_cache=True)
        context = EvalContext(open_source(name, seed=recorded.seed), images, compute)
    else:
        job, machine = _recorded_job(name, out, data, machine)
        if not train_job(job, out, data, machine, command):
            return None
        context = package(job, out, images, machine)
    machine.share_threads()
    result = measure(context, {"emoji64": Emoji64Suite()}, command)["emoji64"]
    result.save(path)
    clean(out)
    return result


def compare(
    recorded: Result, found: Result, records: Sequence[Record], tolerance: float | None = None
) -> list[Comparison]:
    """Compare every recorded number with the one found.

    Args:
        recorded: What was recorded.
        found: What was measured now.
        records: Those of the study, whose main arms say how far numbers may be off.
        tolerance: Says so instead, for all numbers.

    Raises:
        ConfigError: If a recorded number was not measured.
    """
    name = str(recorded.model["name"])
    rows = []
    for task, metrics in recorded.metrics.items():
        for metric, value in metrics.items():
            if metric not in found.metrics.get(task, {}):
                raise ConfigError(f"{name}: {task} {metric} is recorded, but was not measured.")
            allowed = tolerance
            if allowed is None:
                is_trained = name in MODEL_SPECS
                allowed = (
                    _seed_tolerance(records, task, metric) if is_trained else UNTRAINED_TOLERANCE
                )
            rows.append(
                Comparison(
                    task=task,
                    metric=metric,
                    recorded=value,
                    found=found.metrics[task][metric],
                    tolerance=allowed,
                )
            )
    return rows


def comparison_table(rows: Sequence[Comparison]) -> str:
    """Write comparisons as a table, in percent."""
    names = [f"{row.task} {row.metric}" for row in rows]
    width = max(map(len, names), default=0)
    lines = [f"{'':{width}} recorded    found  tolerance"]
    for name, row in zip(names, rows, strict=True):
        mark = "" if row.agrees else "  outside"
        lines.append(
            f"{name:{width}} {100 * row.recorded:8.1f} {100 * row.found:8.1f} "
            f"{'± ' + format(100 * row.tolerance, '.1f'):>10}{mark}"
        )
    return "\n".join(lines)


def find_recorded(name: str) -> Result:
    """Return the recorded result of a model, with its tag or without.

    Raises:
        UnknownNameError: If nothing is recorded under this name.
    """
    results = recorded_results()
    full = f"{name}.emoji64"
    if name not in results and full not in results:
        raise unknown_name("name", name, (*results, "study", "page"))
    return results[name if name in results else full]


def _seed_tolerance(records: Sequence[Record], task: str, metric: str) -> float:
    """Return how far two trainings may be apart, by the spread over seeds pooled over main arms."""
    by_arm: dict[str, list[float]] = {}
    for record in records:
        if record.group == MAIN and not record.error:
            value = record.results["emoji64"].metrics[task][metric]
            by_arm.setdefault(record.arm, []).append(value)
    samples = [sample for sample in by_arm.values() if len(sample) > 1]
    freedom = sum(len(sample) - 1 for sample in samples)
    if not freedom:
        return LEAST
    squares = sum((len(sample) - 1) * statistics.variance(sample) for sample in samples)
    return max(T * math.sqrt(2 * squares / freedom), LEAST)


def _recorded_job(name: str, out: Path, data: Path, machine: Machine) -> tuple[Job, Machine]:
    """Return the training of a bundled model, and the machine with its number of threads."""
    settings: Mapping[str, Mapping[str, int | None]] = read_config(
        bundled_folder(MODEL_SPECS[name])
    )["cassle_zoo"]["training"]["config"]
    seed, threads = settings["run"]["seed"], settings["run"]["threads"]
    assert seed is not None
    job = Job(arm=Arm(name=name, group="", config=get_recipe(name)), seed=seed)
    if machine.threads is None:
        machine = Machine(device=machine.device, threads=threads, data_workers=machine.data_workers)
    # Beginning with the recorded settings makes the training refuse others.
    folder = out / "train"
    if not (folder / CONFIG_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, settings)
    try:
        check_same_run(job_config(job, data, machine), folder)
    except ConfigError as error:
        raise ConfigError(
            f"the recipe of {name} is not what its weights were trained with: {error}"
        ) from None
    return job, machine
