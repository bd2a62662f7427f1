"""``cassle-zoo reproduce``: train, export and evaluate a recorded model, and compare numbers."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cassle_zoo.common.errors import ConfigError, unknown_name
from cassle_zoo.common.exit_status import ExitStatus, statuses_of
from cassle_zoo.common.files import check_folder, read_json, write_json
from cassle_zoo.specs import MODEL_SPECS, model_tags

if TYPE_CHECKING:
    from cassle_zoo.records import Result
    from cassle_zoo.train.config import TrainConfig

TOLERANCES = "tolerances.json"  # beside this; from `python -m benchmarks.study tolerances`
UNTRAINED_TOLERANCE = 0.005
_STATUSES = {
    ExitStatus.OK: "all numbers agree",
    ExitStatus.INCOMPLETE: "some do not",
    ExitStatus.STOPPED: ExitStatus.STOPPED.meaning,
}


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "reproduce",
        help="train a recorded model again and compare the numbers",
        description="Train NAME by its recipe, export and evaluate it, and compare every number "
        "with the recorded one (MODEL_CARDS.md); a baseline such as raw-pixels is only evaluated. "
        "The same command continues an interrupted training. A number agrees if the difference is "
        "within that of two seeds (95 % for all numbers at once, from the spread over seeds in the "
        "study; at least 1 point), or within 0.5 points for a baseline.",
        epilog=statuses_of(_STATUSES),
    )
    parser.add_argument("name", metavar="NAME", help="name of the model, with or without tag")
    parser.add_argument("--list", action=_ListNames, help="list the names and exit")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="PATH", help="emoji64.tar or its folder"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the training"
    )
    parser.add_argument(
        "--init", type=Path, metavar="FILE", help="starting weights, of models that have some"
    )
    parser.add_argument(
        "--tolerance", type=float, metavar="POINTS", help="of all numbers, in percentage points"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads; default: as in the recorded training"
    )
    parser.add_argument(
        "--data-workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that decode and crop; default: 1",
    )
    parser.add_argument("--device", help="such as cpu or cuda:0; default: a GPU if there is one")
    parser.set_defaults(run=run)


class _ListNames(argparse.Action):
    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print("\n".join(recorded_results()))
        parser.exit()


def run(args: argparse.Namespace) -> ExitStatus:
    """Reproduce, print a table, and return the exit status."""
    from cassle_zoo.common.devices import check_device

    if args.tolerance is not None and not args.tolerance >= 0:
        raise ConfigError(f"--tolerance must be at least 0, got {args.tolerance}.")
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {args.threads}.")
    check_device(args.device)
    recorded = find_recorded(args.name)
    check_folder(args.output, "-o")
    earlier = (args.output / "result.json").exists()
    found = reproduce(
        recorded,
        args.output,
        args.data,
        init=args.init,
        threads=args.threads,
        data_workers=args.data_workers,
        device=args.device,
    )
    if found is None:
        return ExitStatus.STOPPED
    if earlier:
        print(
            f"note: showing the result in {args.output}, of an earlier call, whose settings may "
            "differ; to measure again, use another -o",
            file=sys.stderr,
        )
    rows = compare(recorded, found, None if args.tolerance is None else args.tolerance / 100)
    width = max((len(row.name) for row in rows), default=0)
    print(f"{'':{width}} recorded    found  tolerance")
    for row in rows:
        print(
            f"{row.name:{width}} {100 * row.recorded:8.1f} {100 * row.found:8.1f} "
            f"{'± ' + format(100 * row.tolerance, '.1f'):>10}{'' if row.agrees else '  outside'}"
        )
    agreeing = sum(row.agrees for row in rows)
    print(f"{agreeing} of {len(rows)} numbers agree.")
    return ExitStatus.OK if agreeing == len(rows) else ExitStatus.INCOMPLETE


def recorded_results() -> dict[str, "Result"]:
    """Return the recorded results by name of the model."""
    from cassle_zoo.records import read_results

    return {result.model.name: result for result in read_results()}


def find_recorded(name: str) -> "Result":
    """Return the recorded result of a model, with its tag or without.

    Raises:
        UnknownNameError: If nothing is recorded under this name.
    """
    results = recorded_results()
    tags = model_tags(name)
    found = results.get(f"{name}.{tags[0]}" if tags else name)
    if found is None:
        raise unknown_name("name", name, results, listed_by="cassle-zoo reproduce --list")
    return found


def reproduce(
    recorded: "Result",
    out: Path,
    data: Path,
    *,
    init: Path | None = None,
    threads: int | None = None,
    data_workers: int = 1,
    device: str | None = None,
) -> "Result | None":
    """Train a recorded model by its recipe and evaluate it; a baseline is only evaluated.

    Args:
        recorded: One of `recorded_results`.
        out: Folder of the training; a later call continues an interrupted one.
        data: `emoji64.tar` or its folder.
        init: The starting weights, if the model has some; by default the file that its recipe
            names, in the current folder.
        threads: CPU threads; by default as in the recorded training.
        data_workers: Processes that decode and crop.
        device: Such as `cpu` or `cuda:0`; by default a GPU if there is one.

    Returns:
        The result, also written to `out/result.json`, which a later call reads, whatever its
        settings; `None` if a signal stopped the training.

    Raises:
        ConfigError: If the recipe is no longer the one that the weights were trained with, the
            data are not those of the recorded result, or `out` holds a result of another model.
    """
    import torch

    from cassle_zoo.eval.base import Compute
    from cassle_zoo.eval.datasets import open_data
    from cassle_zoo.eval.protocols.emoji64 import Emoji64Suite
    from cassle_zoo.eval.runner import evaluate
    from cassle_zoo.hub.export import export_run
    from cassle_zoo.records import Result
    from cassle_zoo.train.loop import train

    name = recorded.model.name
    if init is not None and name not in MODEL_SPECS:
        raise ConfigError(f"--init {init}: {name} is not trained; leave it out.")
    images = open_data("emoji64", data)
    if images.sha256 != recorded.data.sha256:
        raise ConfigError(
            f"{data} is not the data of the recorded result: its sha256 is {images.sha256}, "
            f"expected {recorded.data.sha256}."
        )
    path = out / "result.json"
    if path.exists():
        found = Result.load(path)
        if (found.model.name, found.data.sha256) != (name, images.sha256):
            raise ConfigError(f"{path} is not a result of {name}; use another output folder.")
        return found
    command = f"cassle-zoo reproduce {name} --data {data.name} -o OUT"
    source, seed = name, recorded.seed
    if name in MODEL_SPECS:
        config = training_config(name, out, data, threads, data_workers, device, init)
        if train(config, out / "train", command=command).stopped:
            return None
        source, seed, threads = f"local-dir:{out / 'model'}", config.run.seed, config.run.threads
        export_run(out / "train", out / "model", overwrite=True)
    if threads is not None:
        torch.set_num_threads(threads)
    compute = Compute(seed=seed, device=device, no_cache=True)
    result, _ = evaluate("emoji64", Emoji64Suite(), source, images, compute, command=command)
    result.save(path)
    return result


def training_config(
    name: str,
    out: Path,
    data: Path,
    threads: int | None,
    data_workers: int,
    device: str | None,
    init: Path | None = None,
) -> "TrainConfig":
    """Return the settings that repeat the training of a bundled model in `out/train`.

    The arguments are those of `reproduce`.

    Raises:
        ConfigError: If the recipe is no longer the one that the weights were trained with, `out`
            holds another training, or `init` is given for a model that starts from random weights.
    """
    from cassle_zoo.records import SETTINGS_FILE
    from cassle_zoo.train.recipes import get_recipe
    from cassle_zoo.train.run.fingerprint import check_same_run

    settings, recipe = recorded_settings(name), get_recipe(name)
    run = dataclasses.replace(
        recipe.run,
        seed=settings["run"]["seed"],
        device=device,
        threads=settings["run"]["threads"] if threads is None else threads,
        loggers=("csv",),
    )
    images = dataclasses.replace(recipe.data, root=str(data), workers=data_workers)
    if init is not None and not recipe.init:
        raise ConfigError(f"--init {init}: {name} starts from random weights; leave it out.")
    start = recipe.init if init is None else str(init)
    config = dataclasses.replace(recipe, init=start, data=images, run=run)
    # Starting from the recorded settings makes the training refuse others.
    folder = out / "train"
    if not (folder / SETTINGS_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS_FILE, settings, sync=True)
    try:
        check_same_run(config, folder)
    except ConfigError as error:
        raise ConfigError(
            f"the recipe of {name} is not what its weights were trained with: {error}"
        ) from None
    return config


def recorded_settings(name: str) -> dict[str, Any]:
    """Return the settings, and starting weights, that a bundled model was trained with."""
    from cassle_zoo.records import START
    from cassle_zoo.store.folder import bundled_folder, read_config

    model = read_config(bundled_folder(MODEL_SPECS[name]))
    training = model["cassle_zoo"]["training"]
    settings: dict[str, Any] = training["config"]
    return settings | {START: training["init"]} if training.get("init") else settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproducedNumber:
    """A number, recorded and reproduced.

    Attributes:
        name: Task and metric.
        recorded: The recorded value.
        found: The reproduced value.
        tolerance: Largest difference at which they agree.
    """

    name: str
    recorded: float
    found: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.found - self.recorded) <= self.tolerance


def compare(
    recorded: "Result", found: "Result", tolerance: float | None = None
) -> list[ReproducedNumber]:
    """Compare every recorded number with the reproduced one.

    Args:
        recorded: The recorded result.
        found: The reproduced one.
        tolerance: Tolerance of all numbers; by default that of two seeds for trained models, and
            `UNTRAINED_TOLERANCE` for others.

    Raises:
        ConfigError: If a recorded number was not measured.
    """
    model = recorded.model.name
    of_seeds = read_json(Path(__file__).with_name(TOLERANCES)) if model in MODEL_SPECS else {}
    rows = []
    for task, metrics in recorded.metrics.items():
        for metric, value in metrics.items():
            name = f"{task} {metric}"
            if metric not in found.metrics.get(task, {}):
                raise ConfigError(f"{model}: {name} is recorded, but was not measured.")
            allowed = tolerance
            if allowed is None:
                allowed = of_seeds[task][metric] if of_seeds else UNTRAINED_TOLERANCE
            again = found.metrics[task][metric]
            rows.append(ReproducedNumber(name=name, recorded=value, found=again, tolerance=allowed))
    return rows
